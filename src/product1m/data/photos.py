"""Photos as arrays: RGB, uint8, `[H, W, 3]`, upright."""

from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from product1m.errors import DatasetError

_FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
Photo = UInt8[np.ndarray, "H W 3"]


def decode_photo(encoded: bytes, name: str) -> Photo:
    """Decode a stored photo, which is upright: an EXIF orientation is ignored.

    Raises DatasetError with `name` if it is damaged.
    """
    pixels: Any = cv2.imdecode(np.frombuffer(encoded, np.uint8), _FLAGS) if encoded else None
    if pixels is None:
        raise DatasetError(f"{name}: not a photo that can be decoded ({len(encoded)} bytes)")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))


def encode_jpeg(photo: Photo, quality: int = 92) -> bytes:
    """Encode a photo as JPEG."""
    done, encoded = cv2.imencode(
        ".jpg", cv2.cvtColor(photo, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    if not done:
        raise DatasetError(f"a photo of shape {photo.shape} cannot be encoded as JPEG")
    return encoded.tobytes()


def fit_within(width: int, height: int, short_side_px: int, long_side_px: int) -> float:
    """Factor to bring the shorter side to `short_side_px`, unless the longer gets too long."""
    return min(short_side_px / min(width, height), long_side_px / max(width, height))


def resize_photo(photo: Photo, scale: float) -> Photo:
    """Resize by a factor; area averaging when it shrinks, bilinear when it grows."""
    height, width = photo.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(photo, size, interpolation=method))
