"""Count the parts of a photo file that a decoder reads one by one, without decoding it.

Pillow reads a file's segments, chunks and blocks in Python, and makes an object for each tile of a
TIFF before it looks at the first pixel: a file of a few megabytes can keep it busy for a minute.
Sources: ITU-T T.81 B.1 (JPEG), PNG 1.2 section 3, GIF89a, TIFF 6.0 section 2 and BigTIFF.
"""

from collections.abc import Iterable, Iterator
from typing import Literal

from product1m.data.encoding import JPEG, PNG, START_OF_SCAN, segments

MAX_PARTS = 1 << 16
"""Most parts of a file, which take at most a second; a TIFF of 50 megapixels in strips of 8 KiB
has 18,000 (ours)."""
MAX_GIF_BLOCKS = 1 << 13
"""Most blocks before a GIF's first frame: each comment is joined to all before it (ours)."""
_GIF = (b"GIF87a", b"GIF89a")
_GIF_EXTENSION = 0x21
_TIFF = (b"II*\0", b"II\0*", b"MM\0*", b"MM*\0", b"II+\0", b"MM\0+")
"""First bytes of the files that Pillow reads as TIFF; a `+` in the third place is a BigTIFF."""
_OFFSETS = (273, 324)
"""Tags of the positions of a TIFF's strips and tiles."""


def too_many_parts(encoded: bytes) -> str:
    """Why a file has more parts than it may; empty if it has not, or is of another format."""
    parts: Iterable[int] = ()
    limit, kind = MAX_PARTS, ""
    if encoded.startswith(JPEG):
        kind, parts = "segments and fill bytes before its first scan", _before_first_scan(encoded)
    elif encoded.startswith(PNG):
        kind, parts = "chunks", _chunks(encoded)
    elif encoded.startswith(_GIF):
        kind, parts, limit = "blocks before its first frame", _gif_blocks(encoded), MAX_GIF_BLOCKS
    elif encoded.startswith(_TIFF):
        kind, parts = "strips or tiles", [_num_tiles(encoded)]
    total = 0
    for number in parts:
        total += number
        if total > limit:
            return f"more than {limit} {kind}"
    return ""


def _before_first_scan(encoded: bytes) -> Iterator[int]:
    for kind, skipped in segments(encoded):
        yield 1 + skipped
        if kind == START_OF_SCAN:
            return


def _chunks(encoded: bytes) -> Iterator[int]:
    position = len(PNG)
    while position < len(encoded):
        position += 12 + int.from_bytes(encoded[position : position + 4], "big")
        yield 1


def _gif_blocks(encoded: bytes) -> Iterator[int]:
    position = 13 + _color_table(encoded[10:11])
    while encoded[position : position + 1] == bytes([_GIF_EXTENSION]):
        position += 2
        while size := int.from_bytes(encoded[position : position + 1]):
            position += 1 + size
            yield 1
        position += 1
        yield 1


def _color_table(flags: bytes) -> int:
    """Bytes of a GIF's global table of colors."""
    packed = int.from_bytes(flags)
    return 3 << ((packed & 7) + 1) if packed & 0x80 else 0


def _num_tiles(encoded: bytes) -> int:
    """Number of strips or tiles that a TIFF's first directory states."""
    order: Literal["little", "big"] = "little" if encoded.startswith(b"II") else "big"
    is_big = encoded[2:3] == b"+"
    word = 8 if is_big else 4

    def number(position: int, size: int) -> int:
        return int.from_bytes(encoded[position : position + size], order)

    start = number(word, word)
    count_size, entry_size = (8, 20) if is_big else (2, 12)
    entries = min(number(start, count_size), MAX_PARTS)
    places = (start + count_size + entry_size * place for place in range(entries))
    return sum(number(place + 4, word) for place in places if number(place, 2) in _OFFSETS)
