"""Thresholds that tell products from the rest, found on held-out scenes."""

import numpy as np
import pytest

from product1m.data.geometry import BoxSelection
from product1m.detection.measuring import ScoredBoxes, best_selection, measure

PRODUCT, OTHER = [0, 0, 10, 10], [40, 40, 50, 50]
TRUTH = [np.array([PRODUCT], np.float32)] * 2


def scenes(*scores: tuple[float, float]) -> list[ScoredBoxes]:
    corners = np.array([PRODUCT, OTHER], np.float32)
    return [ScoredBoxes(corners, np.array(pair, np.float32)) for pair in scores]


def test_the_best_threshold_keeps_the_products_and_drops_the_rest() -> None:
    proposals = scenes((0.97, 0.87), (0.96, 0.75))
    metrics = measure(proposals, TRUTH, best_selection(proposals, TRUTH))
    assert metrics["instances/best_min_score"] == 0.9
    assert metrics["instances/best_f1"] == pytest.approx(1)
    assert (metrics["instances/precision"], metrics["instances/recall"]) == (1, 1)
    assert (metrics["instances/found"], metrics["instances/true"]) == (1, 1)


def test_no_fixed_threshold_hides_products_that_the_network_finds_with_low_scores() -> None:
    proposals = scenes((0.35, 0.2), (0.32, 0.1))
    metrics = measure(proposals, TRUTH, best_selection(proposals, TRUTH))
    assert metrics["instances/best_min_score"] == pytest.approx(0.25)
    assert metrics["instances/recall"] == 1


@pytest.mark.parametrize(("num_scenes", "expected"), [(4, 0.3), (400, 0.55)])
def test_few_scenes_leave_the_threshold_at_its_default(num_scenes: int, expected: float) -> None:
    # Score 0.3: every product, and a wrong box in half of the scenes: precision 2/3, F1 0.8.
    # Score 0.55: 3 of 4 products and nothing else: F1 6/7 = 0.857, standard error 0.350 / sqrt(N).
    sure, unsure = (0.92, 0.1), (0.52, 0.51)
    quarter = [sure, sure, (0.92, 0.51), unsure]
    proposals = scenes(*quarter * (num_scenes // 4))
    truth = [np.array([PRODUCT], np.float32)] * num_scenes
    assert best_selection(proposals, truth).min_score == expected


def test_products_that_overlap_are_kept_apart() -> None:
    corners = np.array([[0, 0, 10, 10], [5, 0, 15, 10]], np.float32)  # IoU 50 / 150
    proposals = [ScoredBoxes(corners, np.array([0.9, 0.8], np.float32))]
    selection = best_selection(proposals, [corners])
    assert measure(proposals, [corners], selection)["instances/recall"] == 1


def test_selected_boxes_keep_their_scores() -> None:
    (scene,) = scenes((0.9, 0.4))
    selected = scene.select(BoxSelection(min_score=0.5, max_iou=0.3, max_boxes=8))
    assert selected.boxes_xyxy.tolist() == [PRODUCT]
    assert selected.scores.tolist() == pytest.approx([0.9])
