"""Photo files to stored photos: checked before decoding, decoded once, upright, limited in size."""

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image

from product1m.data.encoding import EXIF_AND_XMP, without_metadata, without_segments
from product1m.data.limits import (
    FORMATS,
    PhotoLimits,
    PixelBudget,
    check_photo_bytes,
    check_photo_size,
)
from product1m.data.photos import Photo, encode_jpeg, resize_photo
from product1m.errors import PhotoError
from product1m.telemetry.allocator import MMAP_THRESHOLD, set_allocator

Read = TypeVar("Read")

_LARGE_BYTES = 4 << 20
"""Blocks of this size go back to the system as soon as they are free (ours)."""
_OBJECT = re.compile(r" ?<[^<>]*0x[0-9a-f]+>")
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The operation that turns a photo upright, by EXIF orientation; other values mean upright."""


@dataclass(frozen=True)
class StoredPhoto:
    """A photo as a shard stores it."""

    encoded: bytes
    width: int
    height: int
    downscaled: float
    """Its sides relative to those of the original photo, turned upright."""


def normalize_photo(
    raw: bytes, limits: PhotoLimits, budget: PixelBudget | None = None
) -> StoredPhoto:
    """Check a photo file and convert it for storage; PhotoError with the reason if it is rejected.

    An upright JPEG within the limits is stored byte for byte, but without EXIF and XMP, so that no
    reader can find another orientation. Any other file is encoded again. Damaged metadata is
    ignored. With a `budget`, decoding waits until enough pixels are free.
    """
    check_photo_bytes(raw, limits)
    return _despite_metadata(raw, lambda photo: _normalized(photo, limits, budget))


def upright_image(raw: bytes) -> Image.Image:
    """A photo file at full size, turned upright; PhotoError if it cannot be decoded.

    No limits are checked: the caller has called `normalize_photo` before, or trusts the file.
    """
    return _despite_metadata(raw, _upright)


def _despite_metadata(raw: bytes, read: Callable[[bytes], Read]) -> Read:
    """Read a file; if it cannot be decoded, read it again without its metadata."""
    try:
        return read(raw)
    except PhotoError as error:
        sound = without_metadata(raw)
        if sound == raw or error.__cause__ is None:
            raise
        try:
            return read(sound)
        except PhotoError:
            raise error from None


def _upright(raw: bytes) -> Image.Image:
    with photo_errors():
        image = Image.open(io.BytesIO(raw), formats=FORMATS)
        orientation = _orientation(image)
        upright = image if orientation == 1 else image.transpose(_TURNS[orientation])
        return upright.convert("RGB")


def _normalized(raw: bytes, limits: PhotoLimits, budget: PixelBudget | None) -> StoredPhoto:
    with photo_errors():
        image = Image.open(io.BytesIO(raw), formats=FORMATS)
        original_px = image.size
        check_photo_size(*original_px, limits)
        is_small = _is_small_jpeg(image, limits)
        # A JPEG decodes directly to a half, a quarter or an eighth of its size; a progressive one
        # still needs memory for all its coefficients.
        image.draft("RGB", (limits.max_side_px, limits.max_side_px))
        width, height = original_px if image.info.get("progressive") else image.size
        budget = budget or PixelBudget(limits.max_pixels)
        with budget.decoding(width * height):
            orientation = _orientation(image)  # for which Pillow decodes a PNG
            photo = _decode(image, orientation, limits.max_side_px)
            image.close()  # its pixels go before the next photo is decoded
    height, width = photo.shape[:2]
    if min(width, height) < limits.min_side_px:
        raise PhotoError(f"{width} x {height} px after downscaling: too narrow")
    encoded = (
        without_segments(raw, EXIF_AND_XMP) if is_small and orientation == 1 else encode_jpeg(photo)
    )
    return StoredPhoto(encoded, width, height, max(width, height) / max(original_px))


@contextmanager
def photo_errors() -> Iterator[None]:
    """Turn whatever a decoder raises in the block into a PhotoError with its first line."""
    try:
        yield
    except PhotoError:
        raise
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise PhotoError(f"not a photo that can be decoded ({_first_line(error)})") from error


@contextmanager
def unrestricted_pillow() -> Iterator[None]:
    """Switch off Pillow's warnings and its pixel limit; `normalize_photo` checks its own limit.

    It affects the whole process, so enter it before threads start. Memory of decoded photos is
    given back to the system from then on; otherwise every thread keeps that of its largest one.
    """
    set_allocator({MMAP_THRESHOLD: _LARGE_BYTES})
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _orientation(image: Image.Image) -> int:
    """How to turn a decoded photo: its EXIF orientation; 1 if it has none, or a damaged one.

    Pillow turns a TIFF itself while it decodes it.
    """
    if image.format == "TIFF":
        return 1
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # damaged metadata can make Pillow raise anything
        return 1
    return orientation if orientation in _TURNS else 1


def _is_small_jpeg(image: Image.Image, limits: PhotoLimits) -> bool:
    """Whether a photo is stored byte for byte if it is upright."""
    return (
        image.format == "JPEG"
        and image.mode in ("RGB", "L")
        and max(image.size) <= limits.max_side_px
    )


def _decode(image: Image.Image, orientation: int, max_side_px: int) -> Photo:
    upright = image if orientation == 1 else image.transpose(_TURNS[orientation])
    photo = np.asarray(_on_white(upright))
    scale = max_side_px / max(photo.shape[:2])
    return resize_photo(photo, scale) if scale < 1 else photo


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(gray: np.ndarray) -> np.ndarray:
    """Convert 32-bit gray values, whose scale no header states, to 8 bits.

    Floats up to 1 count as shares of white, values up to 255 as 8 bits, up to 65535 as 16 bits;
    then the brightest value must reach a quarter of white (ours). Raises PhotoError for others.
    """
    low, high = float(gray.min()), float(gray.max())  # NaN if any value is
    white = 1 if gray.dtype.kind == "f" and high <= 1 else 255 if high <= 255 else 65535
    if not (low >= 0 and white / 4 <= high <= white):
        raise PhotoError(
            f"gray values from {low:g} to {high:g} in 32 bits, whose scale is unknown; "
            "save it with 8 or 16 bits a channel"
        )
    return np.asarray(np.rint(gray.astype(np.float32) * (255 / white)), np.uint8)


def _first_line(error: Exception) -> str:
    """A decoder's message without memory addresses, which differ in every run."""
    text = str(error).splitlines()
    return _OBJECT.sub("", text[0]) if text else type(error).__name__
