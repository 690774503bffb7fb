"""Which points a box shares with a gallery photo, on packs whose place is known."""

from pathlib import Path

import numpy as np
import pytest

from product1m.data.points import NO_POINTS, POINTS, Points, PointTable, write_points
from product1m.detection.points import PointFinder
from product1m.retrieval.shared_points import CHANCE_POINTS, count_shared, shared_points, strength
from tests.support.worlds.printed_packs import placed, printed_pack, scene_of

FINDER = PointFinder(280, 0)
PACKS = [printed_pack(seed) for seed in range(3)]
PLACES = [placed(PACKS[0], 25, 0.8, (110, 120)), placed(PACKS[1], -140, 0.9, (290, 290))]


@pytest.fixture(scope="module")
def gallery() -> list[Points]:
    return [FINDER.find(pack) for pack in PACKS]


@pytest.fixture(scope="module")
def scene() -> Points:
    photo = scene_of(list(zip(PACKS, PLACES, strict=False)))
    return PointFinder(1500, 0).find(photo)


def test_pairs_lie_where_the_pack_was_put(scene: Points, gallery: list[Points]) -> None:
    for item, place in zip(gallery, PLACES, strict=False):
        shared = shared_points(scene, item)
        assert len(shared) > 20
        expected = shared.item_xy @ place[:, :2].T + place[:, 2]
        assert np.linalg.norm(shared.box_xy - expected, axis=1).max() < 5
        assert len(np.unique(shared.item_xy, axis=0)) == len(shared)


def test_a_box_shares_points_with_its_own_product_alone(
    scene: Points, gallery: list[Points], tmp_path: Path
) -> None:
    write_points(tmp_path, gallery)
    table = PointTable(tmp_path / POINTS)
    boxes = [np.array(box, np.float32) for box in ((0, 0, 200, 220), (190, 190, 400, 400))]
    counts = [count_shared(scene.inside(box), table, np.array([0, 1, 2, -1])) for box in boxes]
    assert [row.argmax() for row in counts] == [0, 1]
    for own, row in enumerate(counts):
        assert row[own] == len(shared_points(scene.inside(boxes[own]), gallery[own]))
        assert sum(row) == row[own]


def test_rows_of_a_gallery_photo_are_shares_of_its_size(
    scene: Points, gallery: list[Points]
) -> None:
    shared = shared_points(scene, gallery[1])
    for row, (x, y), (u, v) in zip(shared.as_rows(), shared.box_xy, shared.item_xy, strict=True):
        assert row == pytest.approx([x, y, u / 200, v / 200], abs=0.06)


def test_photos_without_points_share_none(scene: Points) -> None:
    assert len(shared_points(scene, NO_POINTS)) == 0
    assert len(shared_points(NO_POINTS, scene)) == 0


def test_points_that_chance_gives_do_not_count() -> None:
    counts = np.array([0, CHANCE_POINTS, CHANCE_POINTS + 1, CHANCE_POINTS + 7])
    assert strength(counts) == pytest.approx([0, 0, np.log(2), np.log(8)])
