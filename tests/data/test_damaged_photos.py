"""A campaign of photo files with damaged metadata, and of damaged files of every kind."""

import io
import os
import random

import cv2
import numpy as np
import pytest
from PIL import Image

from product1m.config import IngestionConfig
from product1m.data.intake import normalize_photo, unrestricted_pillow
from product1m.data.limits import PhotoLimits
from product1m.errors import PhotoError
from tests.support.worlds.photo_files import encoded, picture

LIMITS = PhotoLimits.from_config(IngestionConfig())
ATTEMPTS = int(os.environ.get("FAULT_ATTEMPTS", "4000"))


def damaged(raw: bytes, start: int, end: int, rng: random.Random) -> bytes:
    """A file with one to four bytes changed in a range."""
    changed = bytearray(raw)
    for _ in range(rng.randint(1, 4)):
        changed[rng.randrange(start, end)] = rng.randrange(256)
    return bytes(changed)


def with_exif(orientation: int) -> tuple[bytes, int, int]:
    """A JPEG of 60 x 40 pixels, and where the content of its EXIF begins and ends."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = "a description"
    raw = encoded(picture(4, (60, 40)), quality=90, exif=exif)
    start = raw.index(b"Exif\0\0") + 6
    return raw, start, start + len(exif.tobytes()) - 6


@pytest.mark.slow
def test_damaged_metadata_turns_no_photo_for_one_reader_and_refuses_none() -> None:
    rng = random.Random(0)
    differ, refused = 0, 0
    with unrestricted_pillow():
        for number in range(ATTEMPTS):
            raw = damaged(*with_exif(number % 8 + 1), rng)
            try:
                photo = normalize_photo(raw, LIMITS)
            except PhotoError:
                refused += 1
                continue
            pixels = cv2.imdecode(np.frombuffer(photo.encoded, np.uint8), cv2.IMREAD_COLOR)
            sizes = {np.asarray(pixels).shape[1::-1], Image.open(io.BytesIO(photo.encoded)).size}
            differ += sizes != {(photo.width, photo.height)}
    figures = f"{ATTEMPTS} photos, {differ} of two sizes, {refused} refused"
    print(f"damaged metadata: {figures}")  # noqa: T201 — the campaign's result
    assert (differ, refused) == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_damaged_file_is_stored_whole_or_refused(kind: str) -> None:
    rng = random.Random(1)
    sound = encoded(picture(4, (60, 40)), kind)
    refused, raw_errors = 0, []
    with unrestricted_pillow():
        for _ in range(ATTEMPTS // 6):
            try:
                normalize_photo(damaged(sound, 0, len(sound), rng), LIMITS)
            except PhotoError:
                refused += 1
            except Exception as error:
                raw_errors.append(repr(error))
    figures = f"{ATTEMPTS // 6} files, {refused} refused, {len(raw_errors)} ended raw"
    print(f"damaged {kind}: {figures}")  # noqa: T201 — the campaign's result
    assert not raw_errors
