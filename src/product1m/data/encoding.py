"""Count a JPEG's scans and remove a file's metadata, without decoding the photo.

A JPEG is a sequence of segments, each a marker (`ff` and its kind), two bytes of length and
content; a scan's compressed data follows its segment (ITU-T T.81, B.1). A PNG is a signature and
chunks of length, kind, content and checksum.
"""

import re
from collections.abc import Container, Iterator

JPEG, PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
EXIF_AND_XMP = frozenset({0xE1})
"""Kind of the segments that hold EXIF and XMP, and so a photo's orientation."""
METADATA = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})
"""Kinds of the segments that affect no pixel; JFIF (e0) and Adobe (ee) do, so they are missing."""
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
START_OF_SCAN = 0xDA
"""Kind of the segment that a scan's data follows."""
_START, _END = 0xD8, 0xD9
_NEEDED_CHUNKS = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS"})


def segments(encoded: bytes) -> Iterator[tuple[int, int]]:
    """The segments of a JPEG: kind, and number of bytes between the one before and its marker."""
    position = len(JPEG)
    while match := _MARKER.search(encoded, position):
        kind, skipped, position = encoded[match.end() - 1], match.start() - position, match.end()
        yield kind, skipped
        if kind == _END:
            return
        if kind not in (0x01, _START):  # these two have no length
            position += int.from_bytes(encoded[position : position + 2], "big")


def num_scans(encoded: bytes, enough: int) -> int:
    """Number of scans of a JPEG, counted up to one more than `enough`; 0 for other files."""
    scans = 0
    if encoded.startswith(JPEG):
        for kind, _ in segments(encoded):
            scans += kind == START_OF_SCAN
            if scans > enough:
                break
    return scans


def without_segments(encoded: bytes, kinds: Container[int]) -> bytes:
    """A JPEG without the segments of these kinds before its first scan; the pixels stay the same.

    A file whose segments cannot be parsed is returned unchanged.
    """
    position, kept = 2, [encoded[:2]]
    while (match := _MARKER.match(encoded, position)) or encoded[
        position : position + 1
    ] == b"\xff":
        if match is None:  # a fill byte
            position += 1
            continue
        kind = encoded[position + 1]
        if kind == START_OF_SCAN:
            return b"".join([*kept, encoded[position:]])
        length = int.from_bytes(encoded[position + 2 : position + 4], "big")
        if length < 2:
            break
        if kind not in kinds:
            kept.append(encoded[position : position + 2 + length])
        position += 2 + length
    return encoded


def without_metadata(encoded: bytes) -> bytes:
    """A JPEG or PNG with only what determines its pixels; other files unchanged."""
    if encoded.startswith(JPEG):
        return without_segments(encoded, METADATA)
    if not encoded.startswith(PNG):
        return encoded
    position, kept = len(PNG), [PNG]
    while len(header := encoded[position : position + 8]) == 8:
        end = position + 12 + int.from_bytes(header[:4], "big")
        if header[4:] in _NEEDED_CHUNKS:
            kept.append(encoded[position:end])
        position = end
    return b"".join(kept)
