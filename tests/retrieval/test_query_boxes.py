import numpy as np
import pytest

from product1m.data.geometry import BoxSelection
from product1m.data.regions import Regions
from product1m.retrieval.query_boxes import choose_boxes

SELECTION = BoxSelection(min_score=0.5, max_iou=0.3, max_boxes=3)
WHOLE = [0, 0, 100, 100]


def regions(boxes: list[list[float]], scores: list[float]) -> Regions:
    """The whole photo and some boxes; feature k of region k is 1."""
    every = np.array([WHOLE, *boxes], np.float32)
    return Regions(np.eye(len(every), 8, dtype=np.float32), every, np.array([1.0, *scores], "f4"))


def test_of_overlapping_regions_the_best_becomes_a_box() -> None:
    found = choose_boxes(
        regions([[0, 0, 40, 40], [5, 5, 45, 45], [60, 60, 90, 90]], [0.6, 0.9, 0.7]), SELECTION
    )
    assert found.rows.tolist() == [2, 3]  # by falling score; region 1 overlaps region 2 by 0.62
    assert found.scores.tolist() == pytest.approx([0.9, 0.7])
    assert found.boxes_xyxy.tolist() == [[5, 5, 45, 45], [60, 60, 90, 90]]


def test_regions_with_low_scores_and_the_whole_photo_become_no_box() -> None:
    found = choose_boxes(
        regions([[0, 0, 40, 40], [60, 60, 90, 90], [0, 60, 40, 90]], [0.49, 0.5, 0.6]), SELECTION
    )
    assert found.rows.tolist() == [3, 2]


def test_only_the_best_boxes_are_kept() -> None:
    boxes = [[10.0 * n, 0, 10 * n + 9, 9] for n in range(5)]
    found = choose_boxes(regions(boxes, [0.5, 0.9, 0.6, 0.8, 0.7]), SELECTION)
    assert found.rows.tolist() == [2, 4, 5]


@pytest.mark.parametrize(("boxes", "scores"), [([], []), ([[0, 0, 40, 40]], [0.2])])
def test_without_a_confident_region_the_whole_photo_is_the_only_box(
    boxes: list[list[float]], scores: list[float]
) -> None:
    photo = regions(boxes, scores)
    found = choose_boxes(photo, SELECTION)
    assert found.boxes_xyxy.tolist() == [WHOLE]
    assert found.views(photo) == [photo]


def test_a_box_is_seen_as_a_photo_of_its_own() -> None:
    photo = regions([[10, 10, 60, 60], [20, 20, 30, 30], [70, 70, 90, 90]], [0.9, 0.4, 0.3])
    (view,) = choose_boxes(photo, SELECTION).views(photo)
    assert view.features[:, :4].tolist() == [[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
    assert view.positions()[0].tolist() == [0, 0, 1, 1, 1]
    np.testing.assert_allclose(view.positions()[2], [0.2, 0.2, 0.4, 0.4, 0.04], atol=1e-6)
