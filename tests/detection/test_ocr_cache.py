"""What was read once is not read again."""

from pathlib import Path

import numpy as np
import pytest

from product1m.artifacts.folder import open_artifact, write_artifact
from product1m.config import FeatureExtractionConfig, RpnTrainingConfig
from product1m.data.geometry import CHOSEN_BOXES, MIN_SCORE, NMS_IOU, Boxes, BoxSelection
from product1m.data.photos import Photo
from product1m.data.printed_lines import PrintedLines
from product1m.data.regions import Regions
from product1m.detection.ocr import OcrSettings, PackReader
from product1m.detection.ocr_cache import CachedReader, open_reader

CONFIG = FeatureExtractionConfig(ocr="boxes")
PHOTO = np.zeros((10, 20, 3), np.uint8)


class CountingReader(PackReader):
    """Reads the number of boxes off every photo."""

    def read(self, photo: Photo, boxes_xyxy: Boxes) -> PrintedLines:
        quad = np.arange(8, dtype=np.float32).reshape(1, 4, 2) / 3
        return PrintedLines(quad, (f"{len(boxes_xyxy)} 箱",), np.array([0.7], np.float32))


def reader(cache: Path, **settings: object) -> CachedReader:
    section = CONFIG.model_copy(update=settings)
    return CachedReader(CountingReader(OcrSettings.from_config(section)), str(cache))


def found(*boxes: list[float]) -> Regions:
    every = np.array([[0, 0, 20, 10], *boxes], np.float32)
    return Regions(np.zeros((len(every), 1)), every, np.full(len(every), 0.9, np.float32))


def counts(used: CachedReader) -> tuple[float, float]:
    metrics = used.metrics()
    return metrics["photos_read"], metrics["photos_read_before"]


def test_a_second_run_reads_only_new_photos(tmp_path: Path) -> None:
    first, second = reader(tmp_path), reader(tmp_path)
    for digest in ("aa", "bb"):
        first.read(digest, lambda: PHOTO, found([0, 0, 5, 5]))
    assert counts(first) == (2, 0)

    def refuse() -> Photo:
        raise AssertionError("decoded a photo that was read before")

    again = second.read("aa", refuse, found([0, 0, 5, 5]))
    second.read("cc", lambda: PHOTO, found([0, 0, 5, 5]))
    assert counts(second) == (1, 1)
    assert again.texts == ("1 箱",)
    np.testing.assert_array_equal(again.quads_xy.ravel(), np.arange(8, dtype=np.float32) / 3)
    np.testing.assert_array_equal(again.scores, np.array([0.7], np.float32))
    assert second.metrics()["lines_per_item"] * 2 == 2, "one line in each of two photos"


@pytest.mark.parametrize(
    "change", [{"ocr_min_score": 0.9}, {"ocr_box_side_px": 100}, {"ocr": "photo"}]
)
def test_other_settings_read_again(tmp_path: Path, change: dict[str, object]) -> None:
    reader(tmp_path).read("aa", lambda: PHOTO, found([0, 0, 5, 5]))
    other = reader(tmp_path, **change)
    other.read("aa", lambda: PHOTO, found([0, 0, 5, 5]))
    assert counts(other) == (1, 0)


def test_other_boxes_are_read_again(tmp_path: Path) -> None:
    used = reader(tmp_path)
    used.read("aa", lambda: PHOTO, found([0, 0, 5, 5]))
    assert used.read("aa", lambda: PHOTO, found([0, 0, 5, 5], [9, 0, 15, 9])).texts == ("2 箱",)
    assert counts(used) == (2, 0)


def test_a_damaged_entry_is_read_again(tmp_path: Path) -> None:
    reader(tmp_path).read("aa", lambda: PHOTO, found())
    (entry,) = tmp_path.rglob("*.json")
    entry.write_text(entry.read_text("utf-8")[:30], "utf-8")
    used = reader(tmp_path)
    assert used.read("aa", lambda: PHOTO, found()).texts == ("0 箱",)
    assert counts(used) == (1, 0)


def test_only_gallery_and_queries_are_read(tmp_path: Path) -> None:
    with write_artifact(tmp_path / "rpn", "rpn_training", RpnTrainingConfig()) as writer:
        writer.details[CHOSEN_BOXES] = {MIN_SCORE: 0.8, NMS_IOU: 0.4}
    rpn = open_artifact(tmp_path / "rpn", "rpn_training")
    assert open_reader(CONFIG, "train", rpn) is None
    assert open_reader(FeatureExtractionConfig(), "queries", rpn) is None
    gallery, queries = (open_reader(CONFIG, part, rpn) for part in ("gallery", "queries"))
    assert gallery is not None
    assert queries is not None
    assert (gallery.reader.settings.read, queries.reader.settings.read) == ("photo", "boxes")
    assert queries.reader.settings.boxes == BoxSelection(0.8, 0.4, CONFIG.ocr_max_boxes)
