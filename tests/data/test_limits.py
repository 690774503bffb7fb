"""Limits that ingestion and serving share."""

import base64
import json
import threading
from dataclasses import replace

import pytest

from product1m.config import IngestionConfig
from product1m.data.limits import (
    PhotoLimits,
    PixelBudget,
    check_photo_bytes,
    parse_json,
    photo_from_text,
    title_fault,
)
from product1m.errors import PhotoError

LIMITS = PhotoLimits.from_config(IngestionConfig(max_photo_bytes=100))


def test_a_file_is_refused_by_its_bytes_before_anything_reads_it() -> None:
    check_photo_bytes(bytes(100), LIMITS)
    with pytest.raises(PhotoError, match="101 bytes, more than 100"):
        check_photo_bytes(bytes(101), LIMITS)
    with pytest.raises(PhotoError, match="empty"):
        check_photo_bytes(b"", LIMITS)


@pytest.mark.parametrize("kind", ["plain", "lines", "uri", "uri with lines"])
def test_base64_is_read_as_programs_write_it(kind: str) -> None:
    photo = bytes(range(256)) * 3
    text = base64.b64encode(photo).decode()
    if "lines" in kind:
        text = base64.encodebytes(photo).decode().replace("\n", "\r\n")
    if "uri" in kind:
        text = f"data:image/jpeg;base64,{text}"
    assert photo_from_text(text, len(photo)) == photo
    with pytest.raises(PhotoError, match="more than 300 bytes"):
        photo_from_text(text, 300)


@pytest.mark.parametrize("text", ["???", "abc", "data:image/png,raw", "ab=cd", "ünï"])
def test_text_that_is_not_base64_is_refused(text: str) -> None:
    with pytest.raises(PhotoError, match="not base64"):
        photo_from_text(text, 1000)


def test_a_title_is_measured_in_bytes() -> None:
    assert title_fault("面霜" * 5, 30) == ""
    assert title_fault("面霜" * 5 + "!", 30) == "11 characters, more than 30 bytes in UTF-8"
    assert title_fault("x" * 10_000_000, 4096).startswith("10000000 characters")


def test_a_title_of_half_a_character_is_refused() -> None:
    assert (
        title_fault("rose \ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"), 30)
        == ""
    )
    assert title_fault("rose \ud83d", 30) == "half a surrogate pair is no character"


def test_json_is_read_up_to_a_depth() -> None:
    assert parse_json('{"a": [[1, 2], "[[[[[[[[[[[[[[[[[[[[[["]}') == {
        "a": [[1, 2], "[" * 22],
    }
    assert parse_json("[" * 16 + "]" * 16)
    for text in ("[" * 17, "[" * 100_000, '{"a":' * 1000):
        with pytest.raises(ValueError, match="more than 16 lists or objects inside each other"):
            parse_json(text)
    with pytest.raises(json.JSONDecodeError):
        parse_json('{"a": ')


def test_large_photos_are_decoded_one_after_the_other() -> None:
    budget, at_once, most = PixelBudget(100), 0, 0
    lock, started = threading.Lock(), threading.Barrier(4)

    def decode(num_pixels: int) -> None:
        nonlocal at_once, most
        started.wait()
        for _ in range(200):
            with budget.decoding(num_pixels):
                with lock:
                    at_once += num_pixels
                    most = max(most, at_once)
                with lock:
                    at_once -= num_pixels

    threads = [threading.Thread(target=decode, args=(size,)) for size in (30, 50, 80, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most <= 100
    with budget.decoding(10_000):
        pass


def test_every_limit_comes_from_the_configuration() -> None:
    config = IngestionConfig(max_jpeg_scans=3, max_photo_pixels=7)
    assert replace(PhotoLimits.from_config(config), max_bytes=1) == PhotoLimits(
        max_side_px=1000, min_side_px=16, max_pixels=7, max_bytes=1, max_jpeg_scans=3
    )
