"""A photo's way in: what is stored, and what is refused before and after decoding."""

import io
import re
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from product1m.config import IngestionConfig
from product1m.data.intake import normalize_photo, unrestricted_pillow, upright_image
from product1m.data.limits import PhotoLimits
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


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_stored_upright(orientation: int, kind: str) -> None:
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
    raw = encoded(lying, kind, quality=95, exif=exif)
    for pixels in (stored(raw), np.asarray(upright_image(raw))):
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


def tagged(orientation: int, exif: bytes | None = None) -> bytes:
    """A JPEG of 60 x 40 pixels with an EXIF orientation, or with the bytes of a whole EXIF."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    return encoded(picture(4, (60, 40)), quality=95, exif=exif or tags)


def test_a_stored_photo_has_the_same_size_for_every_reader() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    good = exif.tobytes()
    for damaged_at in range(6, len(good)):
        raw = tagged(
            0, good[:damaged_at] + bytes([good[damaged_at] ^ 0x15]) + good[damaged_at + 1 :]
        )
        with unrestricted_pillow():
            photo = normalize_photo(raw, DEFAULTS)
        assert b"Exif\0\0" not in photo.encoded
        size = photo.width, photo.height
        assert Image.open(io.BytesIO(photo.encoded)).size == size
        encoded_photo = np.frombuffer(photo.encoded, np.uint8)
        by_opencv = np.asarray(cv2.imdecode(encoded_photo, cv2.IMREAD_COLOR))
        assert by_opencv.shape == (photo.height, photo.width, 3)


def test_the_photo_that_is_shown_lies_as_the_one_that_is_searched() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for raw in (tagged(6), tagged(0, exif.tobytes()[:-3]), tagged(0, b"Exif\0\0noise")):
        photo = normalize_photo(raw, DEFAULTS)
        assert upright_image(raw).size == (photo.width, photo.height)


def test_a_photo_keeps_its_pixels_when_its_metadata_goes() -> None:
    photo = normalize_photo(tagged(1), DEFAULTS)
    plain = encoded(picture(4, (60, 40)), quality=95)
    assert photo.encoded == plain
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    turned = normalize_photo(encoded(picture(4, (60, 40)), quality=95, xmp=xmp), DEFAULTS)
    assert (turned.width, turned.height) == (40, 60), "Pillow reads an orientation from XMP too"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_damaged_metadata_never_refuses_sound_pixels(kind: str) -> None:
    image = picture(4, (60, 40))
    options = {"quality": 100} if kind in ("JPEG", "WEBP") else {}
    for exif in (
        b"Exif\0\0MM\0*\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
        b"noise" * 30,
    ):
        raw = encoded(image, kind, **({} if kind == "TIFF" else {"exif": exif}), **options)
        pixels = stored(raw).astype(float)
        assert np.abs(pixels - np.asarray(image, float)).mean() < 4


def test_a_png_with_a_text_chunk_of_a_wrong_checksum_is_read() -> None:
    image, texts = picture(4), PngInfo()
    texts.add_text("Comment", "hello")
    raw = bytearray(encoded(image, "PNG", pnginfo=texts))
    raw[raw.index(b"hello") + 1] ^= 1
    assert np.abs(stored(bytes(raw)).astype(float) - np.asarray(image, float)).mean() < 4


def test_gray_tiffs_of_32_bits_are_scaled_or_refused_with_their_range() -> None:
    gray = np.linspace(0, 1, 20 * 30, dtype=np.float32).reshape(20, 30)
    for values in (gray, gray * 255, gray * 65535, (gray * 255).astype(np.int32)):
        pixels = stored(encoded(Image.fromarray(values), "TIFF")).astype(float)
        np.testing.assert_allclose(pixels.mean(2), gray * 255, atol=4)
    for values, scale in (
        (gray * 1e9, "from 0 to 1e+09"),
        (gray - 0.5, "from -0.5 to 0.5"),
        (np.full_like(gray, np.nan), "from nan to nan"),
        ((gray * 4095).astype(np.int32), "from 0 to 4095"),
        (gray * np.float32(1.5), "from 0 to 1.5"),
        ((gray * 1.9).astype(np.int32), "from 0 to 1"),
    ):
        with pytest.raises(PhotoError, match=re.escape(scale) + ".*save it with 8 or 16 bits"):
            stored(encoded(Image.fromarray(values), "TIFF"))


def test_formats_that_other_programs_decode_are_refused() -> None:
    for kind in ("EPS", "PPM", "JPEG2000", "ICO", "PDF"):
        with pytest.raises(PhotoError, match="not a photo that can be decoded"):
            stored(encoded(picture(1, (64, 64)), kind))


def many_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated until it has `count` scans."""
    raw = encoded(picture(4), progressive=True)
    first = raw.rindex(b"\xff\xda")
    return raw[:first] + raw[first:-2] * (count - raw.count(b"\xff\xda") + 1) + raw[-2:]


def test_a_jpeg_of_many_scans_is_refused_before_decoding() -> None:
    assert stored(many_scans(10)).shape == (30, 40, 3)
    with pytest.raises(PhotoError, match="a JPEG with more than 32 scans"):
        stored(many_scans(33))
    with pytest.raises(PhotoError, match="a JPEG with more than 32 scans"):
        stored(many_scans(100_000))


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


MEMORY_OF_WORKERS = """
import io, threading
import psutil
from concurrent.futures import ThreadPoolExecutor
from PIL import Image
from product1m.config import IngestionConfig
from product1m.data.intake import normalize_photo, unrestricted_pillow
from product1m.data.limits import PhotoLimits, PixelBudget

limits = PhotoLimits.from_config(IngestionConfig())
files = []
for kind, options in (("PNG", {}), ("JPEG", {"quality": 10, "progressive": True})):
    file = io.BytesIO()
    Image.new("RGB", (10_000, 5_000), "teal").save(file, kind, **options)
    files.append(file.getvalue())
own, ended, used = psutil.Process(), threading.Event(), []
def watch():
    while not ended.wait(0.01):
        used.append(own.memory_info().rss)
watcher = threading.Thread(target=watch)
start, budget = own.memory_info().rss, PixelBudget(limits.max_pixels)
watcher.start()
with unrestricted_pillow(), ThreadPoolExecutor(8) as workers:
    list(workers.map(lambda file: normalize_photo(file, limits, budget), files * 4))
ended.set()
watcher.join()
print((max(used) - start) >> 20)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks the C library of Linux")
def test_eight_workers_need_little_more_memory_than_one_photo_of_50_megapixels() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEMORY_OF_WORKERS], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 700  # one such photo takes 200 MiB in Pillow, 150 as an array
