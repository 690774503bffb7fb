"""Instances against products, by hand."""

import numpy as np
import pytest

from product1m.evaluation.detection_quality import detection_quality
from product1m.evaluation.statistics import BootstrapPlan

PLAN = BootstrapPlan(num_bootstrap=200, confidence=0.95, seed=0)


def boxes(*corners: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(corners, np.float32).reshape(-1, 4)


LEFT, RIGHT = (0, 0, 10, 10), (20, 0, 30, 10)


def test_counts_and_errors_follow_from_the_numbers_of_boxes() -> None:
    found = [boxes(LEFT), boxes(LEFT, RIGHT), boxes(*[LEFT] * 12)]
    quality = detection_quality(found, [2, 2, 9], None, PLAN)
    counts = quality.counts.to_numpy()
    assert counts[1].tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
    assert counts[7].tolist() == [0, 0, 0, 0, 0, 0, 0, 1]  # 8 and more
    assert quality.counts.to_numpy().sum() == 3
    assert quality.counts.shape == (8, 8)
    means = {name: interval.mean for name, interval in quality.figures.items()}
    assert means == pytest.approx({"error": 2 / 3, "absolute_error": 4 / 3, "exact": 1 / 3})


def test_true_boxes_tell_recall_and_precision() -> None:
    found = [boxes(LEFT, (50, 50, 60, 60)), boxes(LEFT)]
    true = [boxes(LEFT, RIGHT), boxes(LEFT)]
    figures = detection_quality(found, [2, 1], true, PLAN).figures
    assert figures["recall"].mean == pytest.approx((1 / 2 + 1) / 2)
    assert figures["precision"].mean == pytest.approx((1 / 2 + 1) / 2)
    assert (figures["recall"].low, figures["recall"].high) == (0.5, 1.0)
