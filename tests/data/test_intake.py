"""A photo's way in: what is stored, and what is refused before and after decoding."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from product1m.config import IngestionConfig
from product1m.data.intake import PhotoLimits, normalize_photo, unrestricted_pillow
from product1m.data.photos import decode_photo
from product1m.errors import PhotoError
from tests.support.worlds.photo_files import encoded, picture

DEFAULTS = PhotoLimits.from_config(IngestionConfig())


def stored(raw: bytes, limits: PhotoLimits = DEFAULTS) -> np.ndarray:
    with unrestricted_pillow():
        photo = normalize_photo(raw, limits)
    pixels = decode_photo(photo.encoded, "stored")
    assert pixels.shape == (photo.height, photo.width, 3)
    return pixels


def test_a_small_upright_jpeg_is_stored_byte_for_byte() -> None:
    raw = encoded(picture(3))
    assert normalize_photo(raw, DEFAULTS).encoded == raw


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_stored_upright(orientation: int) -> None:
    upright = picture(4, (60, 40))
    turns = {  # how a camera held that way would have stored it
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    lying = upright
    for turn in turns.get(orientation, []):
        lying = lying.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = stored(encoded(lying, quality=95, exif=exif))
    assert pixels.shape == (40, 60, 3)
    assert np.abs(pixels.astype(float) - np.asarray(upright, float)).mean() < 4


def test_a_large_photo_is_downscaled_to_the_longer_side() -> None:
    limits = replace(DEFAULTS, max_side_px=100)
    for size, expected in (((300, 150), (50, 100, 3)), ((130, 260), (100, 50, 3))):
        pixels = stored(encoded(picture(5, size), quality=95), limits)
        assert pixels.shape == expected
        small = np.asarray(picture(5, size).resize(expected[1::-1], Image.Resampling.BOX), float)
        assert np.abs(pixels.astype(float) - small).mean() < 4


def test_transparency_becomes_white_and_gray_cmyk_and_16_bit_photos_become_rgb() -> None:
    clear = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    assert stored(encoded(clear, "PNG")).min() > 250
    gray = picture(6).convert("L")
    assert np.abs(stored(encoded(gray, "PNG")).astype(float).mean(2) - np.asarray(gray)).mean() < 4
    cmyk = stored(encoded(picture(6).convert("CMYK"), quality=95)).astype(float)
    assert np.abs(cmyk - np.asarray(picture(6), float)).mean() < 6
    deep = Image.fromarray(np.asarray(gray, np.uint16) * 257)
    assert np.abs(stored(encoded(deep, "PNG")).astype(float).mean(2) - np.asarray(gray)).mean() < 4
    palette = picture(6).quantize(32)
    assert stored(encoded(palette, "GIF")).shape == (30, 40, 3)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_damaged_photo_is_stored_whole_or_refused_never_anything_else(
    data: st.DataObject,
) -> None:
    raw = bytearray(data.draw(st.sampled_from([encoded(picture(1)), encoded(picture(1), "PNG")])))
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        stored(bytes(raw))
    except PhotoError as refused:
        assert str(refused)  # noqa: PT017  either outcome is right
