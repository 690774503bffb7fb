"""Recall and precision of boxes against plain loops and examples by hand."""

import numpy as np
import pytest

from product1m.detection.measuring import Found, measure
from product1m.detection.recall import (
    average_recall,
    box_iou,
    matched,
    precision_and_recall,
    recall,
)

Box = list[float]


def iou_of_two(one: Box, two: Box) -> float:
    width = min(one[2], two[2]) - max(one[0], two[0])
    height = min(one[3], two[3]) - max(one[1], two[1])
    common = max(width, 0) * max(height, 0)
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, two))
    return common / (area - common)


def loop_recall(proposals: list[list[Box]], truth: list[list[Box]], k: int, iou: float) -> float:
    """COCO's matching, product by product: best free product of every proposal in order."""
    found, total = 0, 0
    for boxes, true in zip(proposals, truth, strict=True):
        free = list(true)
        total += len(true)
        for box in boxes[:k]:
            best = max(free, key=lambda other: iou_of_two(box, other), default=None)
            if best is not None and iou_of_two(box, best) >= iou:
                free.remove(best)
                found += 1
    return found / total


def random_boxes(generator: np.random.Generator, count: int) -> np.ndarray:
    corner, size = generator.uniform(0, 60, (count, 2)), generator.uniform(10, 40, (count, 2))
    return np.concatenate([corner, corner + size], axis=1).astype(np.float32)


def test_recall_and_average_recall_equal_plain_loops() -> None:
    generator = np.random.default_rng(0)
    truth = [random_boxes(generator, count) for count in (1, 2, 3, 5)]
    proposals = [
        np.concatenate(
            [true + generator.normal(0, 2, true.shape), random_boxes(generator, 6)]
        ).astype(np.float32)[generator.permutation(len(true) + 6)]
        for true in truth
    ]
    plain = [boxes.tolist() for boxes in proposals], [boxes.tolist() for boxes in truth]
    for k in (1, 3, 10):
        for iou in (0.5, 0.75, 0.9):
            assert recall(proposals, truth, k, iou) == pytest.approx(loop_recall(*plain, k, iou))
        expected = np.mean([loop_recall(*plain, k, 0.5 + 0.05 * i) for i in range(10)])
        assert average_recall(proposals, truth, k) == pytest.approx(expected)
    assert 0.2 < average_recall(proposals, truth, 10) < 0.9


def test_overlap_of_every_pair_equals_plain_arithmetic() -> None:
    generator = np.random.default_rng(1)
    one, two = random_boxes(generator, 5), random_boxes(generator, 4)
    expected = [[iou_of_two(a, b) for b in two.tolist()] for a in one.tolist()]
    np.testing.assert_allclose(box_iou(one, two), expected, rtol=1e-5)


def test_a_product_is_found_once_however_many_boxes_lie_on_it() -> None:
    product = np.array([[0, 0, 10, 10]], np.float32)
    used, taken = matched(np.repeat(product, 3, axis=0), product, 0.5)
    assert used.tolist() == [True, False, False]
    assert taken.tolist() == [True]


def test_precision_and_recall_of_instances_by_hand() -> None:
    truth = [np.array([[0, 0, 10, 10], [20, 0, 30, 10]], np.float32)] * 2
    instances = [
        np.array([[0, 0, 10, 9], [50, 50, 60, 60], [21, 0, 30, 10]], np.float32),
        np.empty((0, 4), np.float32),
    ]
    precision, share_found = precision_and_recall(instances, truth)
    assert precision == pytest.approx(2 / 3)
    assert share_found == pytest.approx(0.5)
    assert precision_and_recall([instances[1]], truth[:1]) == (0.0, 0.0)


def test_instances_are_confident_boxes_that_hardly_overlap() -> None:
    found = Found(
        np.array([[0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10], [40, 0, 50, 10]], np.float32),
        np.array([0.9, 0.8, 0.6, 0.4], np.float32),
    )
    instances = found.instances()
    np.testing.assert_allclose(instances.scores, [0.9, 0.6])
    assert instances.boxes_xyxy[:, 0].tolist() == [0, 20]
    assert len(found.instances(min_score=0.7).scores) == 1


def test_the_best_threshold_keeps_the_products_and_drops_the_rest() -> None:
    product, other = [0, 0, 10, 10], [40, 40, 50, 50]
    found = [
        Found(np.array([product, other], np.float32), np.array(scores, np.float32))
        for scores in ([0.97, 0.85], [0.92, 0.75])
    ]
    metrics = measure(found, [np.array([product], np.float32)] * 2)
    assert metrics["instances/best_min_score"] == 0.9
    assert metrics["instances/best_f1"] == pytest.approx(1)
    assert metrics["instances/precision"] == 0.5  # at the default threshold both count
    assert (metrics["instances/found"], metrics["instances/true"]) == (2, 1)
