"""Recall and precision of boxes against pycocotools and examples by hand."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from product1m.data.geometry import Boxes
from product1m.detection.recall import average_recall, precision_and_recall, recall

DEPTHS = [1, 3, 10]


def random_boxes(generator: np.random.Generator, count: int) -> np.ndarray:
    corner, size = generator.uniform(0, 60, (count, 2)), generator.uniform(10, 40, (count, 2))
    return np.concatenate([corner, corner + size], axis=1).astype(np.float32)


def random_photos() -> tuple[list[Boxes], list[Boxes]]:
    """Proposals near the true boxes among others, and the true boxes."""
    generator = np.random.default_rng(0)
    truth = [random_boxes(generator, count) for count in (1, 2, 3, 5)]
    proposals = [
        np.concatenate(
            [true + generator.normal(0, 2, true.shape), random_boxes(generator, 6)]
        ).astype(np.float32)[generator.permutation(len(true) + 6)]
        for true in truth
    ]
    return proposals, truth


def coco_recalls(proposals: list[Boxes], truth: list[Boxes]) -> np.ndarray:
    """COCOeval's recall, IoU threshold by depth."""

    def rows(photos: list[Boxes]) -> list[dict[str, object]]:
        every = [(photo, *row) for photo, found in enumerate(photos) for row in enumerate(found)]
        return [
            {
                "id": number,  # from 1: COCOeval takes 0 for "no match"
                "image_id": photo,
                "category_id": 1,
                "bbox": [*map(float, box[:2]), *map(float, box[2:] - box[:2])],
                "area": float(np.prod(box[2:] - box[:2])),
                "iscrowd": 0,
                "score": 1 - place / 100,
            }
            for number, (photo, place, box) in enumerate(every, start=1)
        ]

    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = {
            "images": [{"id": photo} for photo in range(len(truth))],
            "categories": [{"id": 1}],
            "annotations": rows(truth),
        }
        reference.createIndex()
        evaluation = COCOeval(reference, reference.loadRes(rows(proposals)), "bbox")
        evaluation.params.maxDets = DEPTHS
        evaluation.evaluate()
        evaluation.accumulate()
    recalls: np.ndarray = evaluation.eval["recall"][:, 0, 0, :]
    return recalls


def test_recall_and_average_recall_equal_pycocotools() -> None:
    proposals, truth = random_photos()
    expected = coco_recalls(proposals, truth)
    for column, depth in enumerate(DEPTHS):
        for row in (0, 5, 8):  # IoU 0.5, 0.75, 0.9
            found = recall(proposals, truth, depth, 0.5 + 0.05 * row)
            assert found == pytest.approx(expected[row, column])
        assert average_recall(proposals, truth, depth) == pytest.approx(expected[:, column].mean())
    assert 0.2 < expected[:, 2].mean() < 0.9


def test_precision_and_recall_by_hand() -> None:
    truth = [np.array([[0, 0, 10, 10], [20, 0, 30, 10]], np.float32)] * 2
    boxes = [
        np.array([[0, 0, 10, 9], [50, 50, 60, 60], [21, 0, 30, 10]], np.float32),
        np.empty((0, 4), np.float32),
    ]
    assert precision_and_recall(boxes, truth) == pytest.approx((2 / 3, 0.5))
    assert precision_and_recall([boxes[1]], truth[:1]) == (0.0, 0.0)


def test_scenes_without_products_have_no_recall_and_no_precision() -> None:
    nothing = [np.empty((0, 4), np.float32)]
    assert recall(nothing, nothing, 10, 0.5) == 0
    assert precision_and_recall(nothing, nothing) == (0, 0)
    boxes = [np.array([[0, 0, 5, 5]], np.float32)]
    assert precision_and_recall(boxes, nothing) == (0, 0)
