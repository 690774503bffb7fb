"""A photo's way in: checked before it is decoded, decoded once, upright, of bounded size."""

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
class StoredPhoto:
    """A photo as it goes into a shard."""

    encoded: bytes
    width: int
    height: int
    downscaled: float
    """Its sides relative to those of the photo that came in, turned upright."""


def take_in(raw: bytes, config: IngestionConfig) -> StoredPhoto:
    """Check a photo file and make it what is stored; PhotoError with the reason if it is unfit.

    A JPEG that is upright and small enough is stored byte for byte, anything else is encoded again.
    """
    with decoding():
        image = Image.open(io.BytesIO(raw))
        original_px = image.size
        _check_size(image, config)
        keep = _can_be_kept(image, config)
        photo = _decode(image, config)
    height, width = photo.shape[:2]
    if min(width, height) < config.min_photo_side_px:
        raise PhotoError(f"{width} x {height} px once downscaled: too narrow")
    downscaled = max(width, height) / max(original_px)
    return StoredPhoto(raw if keep else encode_jpeg(photo), width, height, downscaled)


@contextmanager
def decoding() -> Iterator[None]:
    """Whatever goes wrong within the block is the photo's fault: a PhotoError that says what."""
    try:
        yield
    except PhotoError:
        raise
    except Exception as error:  # a decoder raises whatever the damage makes it raise
        raise PhotoError(f"not a photo that can be decoded ({_first_line(error)})") from error


@contextmanager
def pillow_without_opinions() -> Iterator[None]:
    """Pillow neither warns nor has a pixel limit of its own; ours is checked on every header.

    Process-wide while it lasts, so it is entered before threads start.
    """
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _check_size(image: Image.Image, config: IngestionConfig) -> None:
    width, height = image.size
    if width * height > config.max_photo_pixels:
        raise PhotoError(
            f"{width} x {height} px is more than {config.max_photo_pixels} pixels; not decoded"
        )
    if min(width, height) < config.min_photo_side_px:
        raise PhotoError(
            f"{width} x {height} px: the shorter side is below {config.min_photo_side_px}"
        )


def _can_be_kept(image: Image.Image, config: IngestionConfig) -> bool:
    return (
        image.format == "JPEG"
        and image.mode in ("RGB", "L")
        and max(image.size) <= config.max_photo_side_px
        and image.getexif().get(_ORIENTATION) in _UPRIGHT
    )


def _decode(image: Image.Image, config: IngestionConfig) -> Photo:
    side = config.max_photo_side_px
    image.draft("RGB", (side, side))  # a JPEG decodes straight to a half, quarter or eighth
    upright = ImageOps.exif_transpose(image)
    photo = np.asarray(_on_white(upright))
    scale = side / max(photo.shape[:2])
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
