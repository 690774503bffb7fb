"""Photo files to stored photos: checked before decoding, decoded once, upright, limited in size."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from product1m.config import IngestionConfig
from product1m.data.photos import Photo, encode_jpeg, resize_photo
from product1m.errors import PhotoError

_ORIENTATION = 0x0112
_UPRIGHT = (None, 1)


@dataclass(frozen=True)
class PhotoLimits:
    """Which photo files are accepted, and how large a photo is stored.

    The section `ingestion` of the configuration explains each value.
    """

    max_side_px: int
    """A larger photo is stored at this longer side."""
    min_side_px: int
    max_pixels: int
    max_bytes: int

    @classmethod
    def from_config(cls, config: IngestionConfig) -> "PhotoLimits":
        """The values of a configuration, also of one that photos were stored with."""
        return cls(
            max_side_px=config.max_photo_side_px,
            min_side_px=config.min_photo_side_px,
            max_pixels=config.max_photo_pixels,
            max_bytes=config.max_photo_bytes,
        )


@dataclass(frozen=True)
class StoredPhoto:
    """A photo as it goes into a shard."""

    encoded: bytes
    width: int
    height: int
    downscaled: float
    """Its sides relative to those of the original photo, turned upright."""


def normalize_photo(raw: bytes, limits: PhotoLimits) -> StoredPhoto:
    """Check a photo file and convert it to what is stored; PhotoError with the reason if rejected.

    An upright JPEG within the limits is stored byte for byte; anything else is encoded again. The
    caller has checked `limits.max_bytes` while reading.
    """
    with photo_errors():
        image = Image.open(io.BytesIO(raw))
        original_px = image.size
        _check_size(image, limits)
        keep = _can_be_kept(image, limits)
        photo = _decode(image, limits.max_side_px)
    height, width = photo.shape[:2]
    if min(width, height) < limits.min_side_px:
        raise PhotoError(f"{width} x {height} px after downscaling: too narrow")
    downscaled = max(width, height) / max(original_px)
    return StoredPhoto(raw if keep else encode_jpeg(photo), width, height, downscaled)


@contextmanager
def photo_errors() -> Iterator[None]:
    """Turn whatever a decoder raises in the block into a PhotoError with its first line."""
    try:
        yield
    except PhotoError:
        raise
    except Exception as error:  # a decoder raises whatever the damage makes it raise
        raise PhotoError(f"not a photo that can be decoded ({_first_line(error)})") from error


@contextmanager
def unrestricted_pillow() -> Iterator[None]:
    """Switch off Pillow's warnings and its pixel limit; `normalize_photo` checks its own limit.

    It affects the whole process, so enter it before threads start.
    """
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _check_size(image: Image.Image, limits: PhotoLimits) -> None:
    width, height = image.size
    if width * height > limits.max_pixels:
        raise PhotoError(
            f"{width} x {height} px: more than {limits.max_pixels} pixels, not decoded"
        )
    if min(width, height) < limits.min_side_px:
        raise PhotoError(f"{width} x {height} px: the shorter side is below {limits.min_side_px}")


def _can_be_kept(image: Image.Image, limits: PhotoLimits) -> bool:
    return (
        image.format == "JPEG"
        and image.mode in ("RGB", "L")
        and max(image.size) <= limits.max_side_px
        and image.getexif().get(_ORIENTATION) in _UPRIGHT
    )


def _decode(image: Image.Image, max_side_px: int) -> Photo:
    # A JPEG decodes directly to a half, a quarter or an eighth of its size.
    image.draft("RGB", (max_side_px, max_side_px))
    upright = ImageOps.exif_transpose(image)
    photo = np.asarray(_on_white(upright))
    scale = max_side_px / max(photo.shape[:2])
    return resize_photo(photo, scale) if scale < 1 else photo


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _first_line(error: Exception) -> str:
    text = str(error).splitlines()
    return (text[0] if text else type(error).__name__).replace("<_io.BytesIO object at ", "<")
