"""Limits for input from outside, the same in ingestion and in serving.

Each is checked before the work that it limits: bytes before decoding, the size in a header before
the pixels, the number of scans before the first scan, a title's length before it is cleaned.
"""

import base64
import binascii
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from product1m.config import IngestionConfig
from product1m.data.encoding import num_scans
from product1m.data.photo_parts import too_many_parts
from product1m.errors import PhotoError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats of photo files that are decoded, by Pillow's names; only the first frame is used (ours).

Pillow reads many more formats, some of them with external programs.
"""
MAX_LINE_BYTES = 1 << 20
"""Longest line of a list (ours)."""
MAX_JSON_DEPTH = 16
"""Deepest nesting of lists and objects in a line or request (ours)."""
MAX_LABELS = 1000
"""Largest number of labels or boxes of one item (ours)."""
_DATA_URI = re.compile(r"data:[^,]{0,200};base64,")
_OPENING = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]')


@dataclass(frozen=True)
class PhotoLimits:
    """Which photo files are accepted, and how large a photo is stored.

    The section `ingestion` of the configuration explains each value.
    """

    max_side_px: int
    """Length of the longer side to which larger photos are reduced."""
    min_side_px: int
    max_pixels: int
    max_bytes: int
    max_jpeg_scans: int

    @classmethod
    def from_config(cls, config: IngestionConfig) -> "PhotoLimits":
        """The limits in a configuration section."""
        return cls(
            max_side_px=config.max_photo_side_px,
            min_side_px=config.min_photo_side_px,
            max_pixels=config.max_photo_pixels,
            max_bytes=config.max_photo_bytes,
            max_jpeg_scans=config.max_jpeg_scans,
        )


def check_photo_bytes(encoded: bytes, limits: PhotoLimits) -> None:
    """PhotoError if a file is empty, too large or has too many scans or parts; decodes nothing."""
    if not encoded:
        raise PhotoError("the file is empty (0 bytes)")
    if len(encoded) > limits.max_bytes:
        raise PhotoError(f"{len(encoded)} bytes, more than {limits.max_bytes}")
    if num_scans(encoded, limits.max_jpeg_scans) > limits.max_jpeg_scans:
        raise PhotoError(
            f"a JPEG with more than {limits.max_jpeg_scans} scans, which takes minutes to decode; "
            "save it again as an ordinary JPEG"
        )
    if reason := too_many_parts(encoded):
        raise PhotoError(f"{reason}, which takes minutes to read; save the photo again")


def check_photo_size(width: int, height: int, limits: PhotoLimits) -> None:
    """PhotoError if a photo has too many pixels to decode, or a side too short to use."""
    if width * height > limits.max_pixels:
        raise PhotoError(
            f"{width} x {height} px: more than {limits.max_pixels} pixels, not decoded"
        )
    if min(width, height) < limits.min_side_px:
        raise PhotoError(f"{width} x {height} px: the shorter side is below {limits.min_side_px}")


def title_fault(title: str, max_bytes: int) -> str:
    """Why a title is too long to use, or cannot be written; empty if neither."""
    # Count characters first, so that a huge title is never encoded.
    if len(title) > max_bytes or len(title.encode("utf-8", "replace")) > max_bytes:
        return f"{len(title)} characters, more than {max_bytes} bytes in UTF-8"
    return half_character_fault(title)


def half_character_fault(text: str) -> str:
    """Why text cannot be written: JSON can hold half of a pair of surrogates; empty if it can."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "half a surrogate pair is no character"
    return ""


def photo_from_text(text: str, max_bytes: int) -> bytes:
    """A photo file from base64, which may have line breaks or be a `data:` URI, else PhotoError.

    Text that would decode to more than `max_bytes` is refused without decoding it.
    """
    start = match.end() if (match := _DATA_URI.match(text)) else 0
    if (len(text) - start) * 3 // 4 > max_bytes + max_bytes // 16 + 4:  # room for line ends
        raise PhotoError(f"{len(text)} characters of base64, more than {max_bytes} bytes")
    try:
        return base64.b64decode("".join(text[start:].split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise PhotoError(
            f"text that is not base64 ({error}); encode the photo file's bytes"
        ) from error


def parse_json(text: str) -> Any:
    """A value from JSON; ValueError with the reason, also if it is nested too deeply."""
    depth = 0
    for match in _OPENING.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(match[0], 0)
        if depth > MAX_JSON_DEPTH:
            raise ValueError(f"more than {MAX_JSON_DEPTH} lists or objects inside each other")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


class PixelBudget:
    """Limits how many pixels all threads together decode at the same time.

    A photo with more pixels than the whole budget is decoded alone.
    """

    def __init__(self, max_pixels: int) -> None:
        self._free = max_pixels
        self._all = max_pixels
        self._changed = threading.Condition()

    @contextmanager
    def decoding(self, num_pixels: int) -> Iterator[None]:
        """Wait until this many pixels are free, and release them at the end of the block."""
        share = min(num_pixels, self._all)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= share)
            self._free -= share
        try:
            yield
        finally:
            with self._changed:
                self._free += share
                self._changed.notify_all()
