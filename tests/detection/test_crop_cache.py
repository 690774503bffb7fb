"""Crops: which boxes are encoded, and that a cache changes nothing but the time."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from product1m.data.crop_vectors import NO_CROPS, CropTable, CropVectors, CropWriter
from product1m.data.geometry import BoxSelection
from product1m.data.photos import Photo
from product1m.data.regions import Regions
from product1m.detection.crop_cache import Cropper, CropSelection

BOXES = BoxSelection(0.3, 0.5, 8)
WHOLE, LEFT, RIGHT = [0, 0, 90, 60], [4, 6, 40, 50], [50, 5, 85, 55]


class MeanColor:
    """Encodes a picture as its mean color."""

    dim = 3
    device = torch.device("cpu")
    key = "mean"
    details: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self) -> None:
        self.sizes_px: list[tuple[int, int]] = []

    def encode(self, crop: Photo) -> np.ndarray:
        self.sizes_px.append((crop.shape[1], crop.shape[0]))
        return np.asarray(crop.mean(axis=(0, 1), dtype=np.float64), np.float32)

    def save(self, folder: Path) -> list[Path]:
        return []


def regions(*scores: float) -> Regions:
    boxes = np.array([WHOLE, LEFT, RIGHT][: len(scores) + 1], np.float32)
    return Regions(np.zeros((len(boxes), 4)), boxes, np.array([1.0, *scores], np.float32))


def photo() -> Photo:
    picture = np.full((60, 90, 3), 250, np.uint8)
    picture[6:50, 4:40] = (200, 0, 0)
    picture[5:55, 50:85] = (0, 0, 100)
    return picture


def test_a_gallery_photo_is_cut_to_its_surest_box_or_not_at_all() -> None:
    gallery = CropSelection("one", BOXES)
    assert gallery.boxes_of(regions(0.6, 0.9)).tolist() == [RIGHT]
    assert gallery.boxes_of(regions(0.2, 0.1)).tolist() == [WHOLE]
    assert gallery.boxes_of(regions()).tolist() == [WHOLE]


def test_of_a_query_the_photo_its_boxes_and_other_known_boxes_are_encoded() -> None:
    queries = CropSelection("several", BOXES)
    assert queries.boxes_of(regions(0.6, 0.9)).tolist() == [WHOLE, RIGHT, LEFT]
    near, other = [LEFT[0], LEFT[1], LEFT[2], LEFT[3] - 1], [10, 10, 30, 30]
    known = np.array([near, other], np.float32)
    assert queries.boxes_of(regions(0.6, 0.9), known).tolist() == [WHOLE, RIGHT, LEFT, other]


def test_a_box_takes_the_vector_of_the_nearest_encoded_box_or_none() -> None:
    encoder = MeanColor()
    cropper = Cropper(encoder, CropSelection("several", BOXES))
    crops = cropper.encode(photo(), np.array([LEFT, RIGHT], np.float32))
    assert encoder.sizes_px == [(36, 44), (35, 50)]
    vector = crops.at(np.array([4, 6, 40, 49], np.float32))
    assert vector is not None
    assert vector.tolist() == [1, 0, 0]
    assert crops.at(np.array([4, 6, 40, 40], np.float32)) is None
    assert NO_CROPS.at(np.array(LEFT, np.float32)) is None


def test_a_photo_of_the_cache_is_not_encoded_again(tmp_path: Path) -> None:
    found = regions(0.6, 0.9)

    def run(cache: str, digest: str = "a" * 64) -> tuple[CropVectors, dict[str, float]]:
        cropper = Cropper(MeanColor(), CropSelection("several", BOXES), cache)
        return cropper.crops(digest, photo, found), cropper.metrics()

    cache = str(tmp_path / "cache")
    fresh, _ = run("")
    first, new = run(cache)
    again, known = run(cache)
    assert (new["photos_encoded"], new["photos_encoded_before"]) == (1, 0)
    assert (known["photos_encoded"], known["photos_encoded_before"]) == (0, 1)
    for crops in (first, again):
        np.testing.assert_array_equal(crops.vectors, fresh.vectors)
        np.testing.assert_array_equal(crops.boxes_xyxy, fresh.boxes_xyxy)
    (entry,) = (tmp_path / "cache").rglob("*.safetensors")
    entry.write_bytes(entry.read_bytes()[:-3])
    assert run(cache)[1]["photos_encoded"] == 1


def test_crops_are_read_as_they_were_written(tmp_path: Path) -> None:
    vectors = np.arange(6, dtype=np.float16).reshape(2, 3)
    written = CropVectors(np.array([LEFT, RIGHT], np.float32), vectors)
    with CropWriter(tmp_path) as writer:
        for crops in (written, NO_CROPS, written):
            writer.add(crops)
    table = CropTable(tmp_path / "crops.arrow")
    assert [len(table[row]) for row in range(3)] == [2, 0, 2]
    np.testing.assert_array_equal(table[2].vectors, vectors)
    np.testing.assert_array_equal(table[2].boxes_xyxy, written.boxes_xyxy)
