"""Box geometry against pycocotools, plain loops, counted pixels and examples by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from product1m.data.geometry import (
    BoxSelection,
    areas,
    match_boxes,
    pairwise_iou,
    select_boxes,
    share_inside,
)
from tests.support.oracles import loops

LEFT, RIGHT = (0, 0, 10, 10), (20, 0, 30, 10)


def boxes(*corners: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(corners, np.float32).reshape(-1, 4)


def random_boxes(seed: int, count: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    corners = generator.integers(0, 20, (count, 2))
    return np.concatenate([corners, corners + generator.integers(1, 15, (count, 2))], 1).astype(
        np.float32
    )


def as_coco(corners: np.ndarray) -> np.ndarray:
    """Left, top, width, height."""
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1).astype(np.float64)


@given(st.integers(0, 2**31))
def test_iou_equals_pycocotools(seed: int) -> None:
    ours, others = random_boxes(seed, 6), random_boxes(seed + 1, 4)
    expected = coco.iou(as_coco(ours), as_coco(others), [0] * len(others))
    np.testing.assert_allclose(pairwise_iou(ours, others), expected, rtol=1e-6)
    np.testing.assert_array_equal(pairwise_iou(ours), pairwise_iou(ours, ours))


def test_iou_of_several_photos_compares_boxes_of_one_photo() -> None:
    photos = np.stack([random_boxes(seed, 5) for seed in range(3)])
    expected = [pairwise_iou(photo) for photo in photos]
    np.testing.assert_array_equal(pairwise_iou(photos), expected)


def test_boxes_without_area_overlap_nothing() -> None:
    points = boxes((3, 3, 3, 3), (3, 3, 3, 3), (5, 0, 2, 4))
    assert areas(points).tolist() == [0, 0, 0]
    assert pairwise_iou(points, boxes(LEFT)).tolist() == [[0], [0], [0]]
    assert pairwise_iou(points[:2]).tolist() == [[0, 0], [0, 0]]
    assert share_inside(points, boxes(LEFT)[0]).tolist() == [0, 0, 0]


def test_share_inside_equals_counted_pixels() -> None:
    frame = {(x, y) for x in range(10) for y in range(10)}
    corners = [(0, 0, 10, 10), (5, 5, 15, 15), (20, 20, 30, 30), (-4, 2, 4, 8)]
    expected = []
    for x1, y1, x2, y2 in corners:
        pixels = {(x, y) for x in range(x1, x2) for y in range(y1, y2)}
        expected.append(len(pixels & frame) / len(pixels))
    np.testing.assert_allclose(share_inside(boxes(*corners), boxes(LEFT)[0]), expected)


@given(st.integers(0, 2**31), st.floats(0, 1), st.floats(0.1, 0.5))
def test_selection_equals_a_plain_loop_over_boxes(
    seed: int, max_iou: float, min_score: float
) -> None:
    corners = random_boxes(seed, 12)
    scores = np.random.default_rng(seed).random(12, np.float32)
    expected = loops.selected_boxes(corners.tolist(), scores.tolist(), min_score, max_iou)
    selection = BoxSelection(min_score, max_iou, max_boxes=12)
    assert select_boxes(corners, scores, selection).tolist() == expected


def test_of_equal_scores_the_first_box_is_kept() -> None:
    selection = BoxSelection(min_score=0.5, max_iou=0.5, max_boxes=9)
    rows = select_boxes(boxes(LEFT, LEFT, RIGHT), np.ones(3, np.float32), selection)
    assert rows.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("score", "rows"), [(0.55, [0]), (0.65, [0, 1])], ids=["a part", "a product of its own"]
)
def test_a_box_inside_another_needs_twice_the_score(score: float, rows: list[int]) -> None:
    corners = boxes((0, 0, 10, 10), (2, 2, 6, 6))
    selection = BoxSelection(min_score=0.3, max_iou=0.5, max_boxes=9)
    assert select_boxes(corners, np.array([0.9, score], np.float32), selection).tolist() == rows


@pytest.mark.parametrize(("best", "rows"), [(0.34, []), (0.36, [0, 1])])
def test_a_photo_without_a_sure_box_shows_nothing(best: float, rows: list[int]) -> None:
    selection = BoxSelection(min_score=0.3, max_iou=0.5, max_boxes=9)
    scores = np.array([best, 0.31], np.float32)
    assert select_boxes(boxes(LEFT, (40, 0, 50, 10)), scores, selection).tolist() == rows


def test_selected_boxes_are_confident_apart_and_limited() -> None:
    corners = boxes(LEFT, (0, 0, 10, 9), RIGHT, (40, 0, 50, 10), (60, 0, 70, 10))
    scores = np.array([0.8, 0.9, 0.6, 0.95, 0.4], np.float32)
    rows = select_boxes(corners, scores, BoxSelection(min_score=0.5, max_iou=0.3, max_boxes=9))
    assert rows.tolist() == [3, 1, 2]
    rows = select_boxes(corners, scores, BoxSelection(min_score=0.5, max_iou=0.3, max_boxes=2))
    assert rows.tolist() == [3, 1]
    assert not len(select_boxes(boxes(), scores[:0], BoxSelection(0.0, 0.3, 2)))


def test_a_true_box_is_matched_once() -> None:
    def counts(ours: np.ndarray, true: np.ndarray) -> tuple[int, int]:
        matched, taken = match_boxes(ours, true, 0.5)
        return int(matched.sum()), int(taken.sum())

    assert counts(boxes(LEFT, RIGHT), boxes(LEFT, RIGHT)) == (2, 2)
    assert counts(boxes(LEFT, LEFT), boxes(LEFT, RIGHT)) == (1, 1)
    assert counts(boxes((0, 0, 10, 5)), boxes(LEFT)) == (1, 1)  # IoU 0.5
    assert counts(boxes((0, 0, 10, 4.9)), boxes(LEFT)) == (0, 0)
    assert counts(boxes(LEFT), boxes()) == (0, 0)
    assert counts(boxes(), boxes(LEFT)) == (0, 0)


def test_the_better_scored_box_chooses_first() -> None:
    # The first box overlaps both; the second lies on the true box that the first one takes.
    ours, true = boxes((0, 0, 12, 10), LEFT), boxes(LEFT, (6, 0, 18, 10))
    matched, taken = match_boxes(ours, true, 0.5)
    assert (matched.tolist(), taken.tolist()) == ([True, False], [True, False])
