"""Boxes against products, by hand."""

import numpy as np
import pytest

from product1m.evaluation.detection_quality import (
    PhotoBoxes,
    detection_quality,
    products_at,
)
from product1m.evaluation.statistics import BootstrapPlan

PLAN = BootstrapPlan(num_bootstrap=200, confidence=0.95, seed=0)


def boxes(*corners: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(corners, np.float32).reshape(-1, 4)


LEFT, RIGHT, NOWHERE = (0, 0, 10, 10), (20, 0, 30, 10), (50, 50, 60, 60)


def photo(
    shown: np.ndarray,
    num_labeled: int,
    true: np.ndarray | None = None,
    labels: list[str] | None = None,
    answers: list[list[str]] | None = None,
) -> PhotoBoxes:
    return PhotoBoxes(shown, answers or [[]] * len(shown), num_labeled, true, labels)


def test_counts_and_errors_follow_from_the_numbers_of_boxes() -> None:
    found = [boxes(LEFT), boxes(LEFT, RIGHT), boxes(*[LEFT] * 12)]
    photos = [photo(shown, number) for shown, number in zip(found, [2, 2, 9], strict=True)]
    quality = detection_quality(["q1", "q2", "q3"], photos, PLAN)
    counts = quality.counts.to_numpy()
    assert counts[1].tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
    assert counts[7].tolist() == [0, 0, 0, 0, 0, 0, 0, 1]  # 8 and more
    assert quality.counts.to_numpy().sum() == 3
    assert quality.counts.shape == (8, 8)
    means = {name: interval.mean for name, interval in quality.figures.items()}
    assert means == pytest.approx({"error": 2 / 3, "absolute_error": 4 / 3, "exact": 1 / 3})


def test_a_photo_without_any_box_counts() -> None:
    quality = detection_quality(["q"], [photo(boxes(), 2, boxes(LEFT, RIGHT))], PLAN)
    assert quality.counts.loc[2, 0] == 1
    assert quality.figures["recall"].mean == 0
    assert "precision" not in quality.figures  # of no box at all


def test_true_boxes_give_recall_and_precision_of_all_products_and_boxes() -> None:
    photos = [
        photo(boxes(LEFT, NOWHERE, (50, 0, 60, 10)), 2, boxes(LEFT, RIGHT)),
        photo(boxes(LEFT, LEFT), 1, boxes(LEFT)),  # a product counts once
    ]
    figures = detection_quality(["q1", "q2"], photos, PLAN).figures
    assert figures["recall"].mean == pytest.approx(2 / 3)
    assert figures["precision"].mean == pytest.approx(2 / 5)
    assert (figures["recall"].low, figures["recall"].high) == (0.5, 1.0)
    assert "products_found@1" not in figures


def test_a_product_is_found_if_a_box_on_it_names_it() -> None:
    photos = [
        photo(
            boxes(LEFT, RIGHT, NOWHERE),
            3,
            boxes(LEFT, RIGHT, (80, 80, 90, 90)),
            ["rose", "mint", "aloe"],
            # Right at once; right among five; the third box lies on nothing, whatever it names.
            [["rose", "fig"], ["fig", "oat", "iris", "honey", "mint"], ["aloe"]],
        ),
        # The products are swapped: each is in the photo, but elsewhere.
        photo(boxes(LEFT, RIGHT), 2, boxes(LEFT, RIGHT), ["a", "b"], [["b"], ["a"]]),
        photo(boxes(LEFT), 1, boxes(LEFT), ["sage"], [["a", "b", "c", "d", "e", "sage"]]),
    ]
    quality = detection_quality(["q1", "q2", "q3"], photos, PLAN)
    assert quality.figures["products_found@1"].mean == pytest.approx(1 / 6)
    assert quality.figures["products_found@5"].mean == pytest.approx(2 / 6)
    assert quality.per_query["products_found@1"].tolist() == [1, 0, 0]
    assert quality.per_query["products"].tolist() == [3, 2, 1]


def test_a_box_lies_on_every_product_that_it_fits() -> None:
    true, labels = boxes(LEFT, (0, 0, 10, 9), RIGHT), ["rose", "mint", "aloe"]
    assert products_at(boxes((0, 0, 10, 10))[0], true, labels) == ["rose", "mint"]
    assert products_at(boxes(NOWHERE)[0], true, labels) == []
