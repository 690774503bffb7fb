"""The real reader on drawn packs whose text is known."""

import socket

import cv2
import numpy as np
import pytest

from product1m.config import FeatureExtractionConfig
from product1m.data.photos import Photo
from product1m.data.regions import Regions
from product1m.detection.ocr import OcrError, OcrSettings, PackReader, boxes_to_read

BOXES = FeatureExtractionConfig(ocr="boxes", ocr_box_side_px=320, ocr_photo_side_px=480)


def pack(*words: str) -> Photo:
    """Words below each other on a blue pack, 150 × 200 pixels."""
    photo = np.full((200, 150, 3), (40, 60, 150), np.uint8)
    for number, word in enumerate(words):
        place = (12, 60 + 60 * number)
        cv2.putText(photo, word, place, cv2.FONT_HERSHEY_DUPLEX, 1.0, (250, 250, 240), 2)
    return photo


def regions(*boxes: tuple[float, ...], scores: tuple[float, ...] = ()) -> Regions:
    whole = (0, 0, 420, 240)
    given = np.array([1.0, *(scores or [0.9] * len(boxes))], np.float32)
    return Regions(np.zeros((len(given), 1)), np.array([whole, *boxes], np.float32), given)


@pytest.fixture(scope="module")
def reader() -> PackReader:
    return PackReader(OcrSettings.from_config(BOXES))


def test_packs_are_read_where_they_lie_without_a_network(
    reader: PackReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the reader asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    photo = np.full((240, 420, 3), 225, np.uint8)
    photo[20:220, 30:180] = pack("CHAZZ", "LIME")
    photo[20:220, 250:400] = np.rot90(pack("TERRA", "BLUES"), 2)  # stands on its head
    left, right = (30.0, 20.0, 180.0, 220.0), (250.0, 20.0, 400.0, 220.0)
    both = reader.with_lines(photo, regions(left, right)).lines
    assert set(both.inside(np.array(left, np.float32)).texts) == {"CHAZZ", "LIME"}
    assert set(both.inside(np.array(right, np.float32)).texts) == {"TERRA", "BLUES"}
    assert both.scores.min() > 0.8
    top_left = dict(zip(both.texts, both.quads_xy[:, 0], strict=True))
    np.testing.assert_allclose(top_left["CHAZZ"], [42, 58], atol=12)
    np.testing.assert_allclose(top_left["TERRA"], [388, 182], atol=12)  # where reading begins


def test_nothing_is_printed_on_a_blank_photo(reader: PackReader) -> None:
    assert not len(reader.read(np.full((200, 300, 3), 255, np.uint8), np.empty((0, 4))))


def test_boxes_that_are_likely_products_are_read_best_first() -> None:
    found = regions(
        (0, 0, 100, 100),
        (0, 0, 98, 98),  # the same product
        (200, 0, 300, 100),
        (300, 100, 400, 200),  # hardly one
        scores=(0.7, 0.6, 0.9, 0.2),
    )
    settings = OcrSettings.from_config(BOXES)
    assert boxes_to_read(found, settings).tolist() == [[200, 0, 300, 100], [0, 0, 100, 100]]
    gallery = OcrSettings.from_config(BOXES, "gallery")  # one product fills the photo
    assert not len(boxes_to_read(found, gallery))


def test_a_gpu_that_onnxruntime_does_not_have_is_an_error() -> None:
    config = FeatureExtractionConfig(ocr="photo", ocr_provider="cuda")
    settings = OcrSettings.from_config(config)
    with pytest.raises(OcrError, match="install onnxruntime-gpu"):
        PackReader(settings).read(np.zeros((9, 9, 3), np.uint8), np.empty((0, 4)))
    assert settings.on_this_machine().provider == "cpu"
