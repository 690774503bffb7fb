"""Photo files whose segments, chunks, blocks or tiles would keep a decoder busy for minutes."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from product1m.config import IngestionConfig
from product1m.data.intake import normalize_photo
from product1m.data.limits import PhotoLimits
from product1m.errors import PhotoError

LIMITS = PhotoLimits.from_config(IngestionConfig())
SIDE_PX = 40


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (SIDE_PX, SIDE_PX), (200, 30, 90)).save(file, kind)
    return file.getvalue()


def with_parts(kind: str, count: int) -> bytes:
    """A photo with so many parts of a kind, each as small as it can be."""
    if kind == "tiles":
        return tiff(count)
    if kind == "chunks":
        raw = encoded("PNG")
        text = b"tEXtk\0v"
        chunk = struct.pack(">I", 3) + text + struct.pack(">I", zlib.crc32(text))
        return raw[:33] + chunk * count + raw[33:]
    if kind == "blocks":
        raw = encoded("GIF")
        start = 13 + 3 * (2 << (raw[10] & 7))
        return raw[:start] + b"\x21\xfe\x01c\0" * (count // 2) + raw[start:]
    raw = encoded("JPEG")
    part = {"segments": b"\xff\xec\0\x02", "fill bytes": b"\xff"}[kind]
    return raw[:2] + part * count + raw[2:]


def tiff(count: int) -> bytes:
    """A gray TIFF in one row of tiles of 16 x 16 pixels, all at the same place in the file."""
    tags = {256: 16 * count, 257: 16, 258: 8, 259: 1, 262: 1, 322: 16, 323: 16}
    pixels = 8 + 2 + 12 * (len(tags) + 2) + 4
    tags |= {324: pixels + 256, 325: pixels + 256 + 4 * count}
    entries = [
        struct.pack("<HHII", tag, 4, count if tag in (324, 325) else 1, value)
        for tag, value in sorted(tags.items())
    ]
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)
    gray = np.full(256, 77, np.uint8).tobytes()
    return head + gray + struct.pack("<I", pixels) * count + struct.pack("<I", 256) * count


@pytest.mark.parametrize(
    ("kind", "limit"),
    [
        ("segments", 1 << 16),
        ("fill bytes", 1 << 16),
        ("chunks", 1 << 16),
        ("blocks", 1 << 13),
        ("tiles", 1 << 16),
    ],
)
def test_a_photo_of_too_many_parts_is_refused_and_one_of_many_is_read(
    kind: str, limit: int
) -> None:
    many = normalize_photo(with_parts(kind, 60), LIMITS)
    assert many.height >= SIDE_PX or kind == "tiles"
    with pytest.raises(PhotoError, match=rf"more than {limit} .*{kind}"):
        normalize_photo(with_parts(kind, limit + 2), LIMITS)
