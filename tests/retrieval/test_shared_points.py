"""Which points a box shares with a gallery photo, on packs whose place is known."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from product1m.data.points import NO_POINTS, POINTS, Points, PointTable
from product1m.detection.points import PointFinder
from product1m.retrieval.shared_points import CHANCE_POINTS, Matcher, PreparedItems
from tests.support.worlds.point_files import write_points
from tests.support.worlds.printed_packs import placed, printed_pack, scene_of

Tables = Callable[[list[Points]], PreparedItems]
FINDER = PointFinder(280, 0)
PACKS = [printed_pack(seed) for seed in range(3)]
PLACES = [placed(PACKS[0], 25, 0.8, (110, 120)), placed(PACKS[1], -140, 0.9, (290, 290))]


@pytest.fixture
def table_of(tmp_path: Path) -> Tables:
    def table(items: list[Points]) -> PreparedItems:
        write_points(tmp_path, items)
        return PreparedItems(PointTable(tmp_path / POINTS))

    return table


@pytest.fixture(scope="module")
def gallery() -> list[Points]:
    return [FINDER.find(pack) for pack in PACKS]


@pytest.fixture(scope="module")
def scene() -> Points:
    photo = scene_of(list(zip(PACKS, PLACES, strict=False)))
    return PointFinder(1500, 0).find(photo)


def test_pairs_lie_where_the_pack_was_put(
    scene: Points, gallery: list[Points], table_of: Tables
) -> None:
    matcher = Matcher([scene], table_of(gallery))
    for row, place in enumerate(PLACES):
        shared = matcher.shared(0, row)
        assert len(shared) > 20
        expected = shared.item_xy @ place[:, :2].T + place[:, 2]
        assert np.linalg.norm(shared.box_xy - expected, axis=1).max() < 5
        assert len(np.unique(shared.item_xy, axis=0)) == len(shared)


def test_a_box_shares_points_with_its_own_product_alone(
    scene: Points, gallery: list[Points], table_of: Tables
) -> None:
    boxes = [np.array(box, np.float32) for box in ((0, 0, 200, 220), (190, 190, 400, 400))]
    matcher = Matcher([scene.inside(box) for box in boxes], table_of(gallery))
    counts = [matcher.count(place, np.array([0, 1, 2, -1])) for place in range(2)]
    numbers = [rows[:, 0] for rows in counts]
    assert [row.argmax() for row in numbers] == [0, 1]
    for own, row in enumerate(numbers):
        number = len(matcher.shared(own, own))
        assert row[own] == number - CHANCE_POINTS
        assert counts[own][own, 1] < 10  # drawn in the same light
        assert sum(row) == row[own]


def test_differences_of_color_are_those_of_shared_points(
    scene: Points, gallery: list[Points], table_of: Tables
) -> None:
    def colored(shift: int) -> Points:
        return replace(gallery[0], colors=np.full((len(gallery[0]), 2), 100 + shift, np.uint8))

    box = replace(scene, colors=np.full((len(scene), 2), 100, np.uint8))
    uncolored = replace(gallery[0], colors=None)
    matcher = Matcher([box], table_of([colored(0), colored(10), colored(40), uncolored]))
    expected = len(matcher.shared(0, 0)) - CHANCE_POINTS
    assert matcher.count(0, np.arange(4))[:, :2].tolist() == [
        [expected, difference] for difference in (0, 20, 80, 0)
    ]


def test_the_pattern_of_colors_tells_packs_with_the_same_print_apart(table_of: Tables) -> None:
    pack = PACKS[0]
    sister = np.ascontiguousarray(pack[:, :, ::-1])  # red for blue, the same print
    light = np.clip(pack * np.array([0.9, 0.8, 0.6]), 0, 255).astype(np.uint8)
    photo = scene_of([(light, placed(light, 25, 0.8, (200, 200)))])
    query = PointFinder(1500, 0, 128).find(photo)
    items = [PointFinder(280, 0, 48).find(own) for own in (pack, sister)]
    unknown = replace(items[0], chroma=None)
    counts = Matcher([query], table_of([*items, unknown])).count(0, np.arange(3))
    agreements = counts[:, 2]
    assert (counts[:, 0] > 5).all()
    assert agreements[0] > 0.8
    assert agreements[1] < 0.6
    assert agreements[2] == 0


def test_rows_of_a_gallery_photo_are_shares_of_its_size(
    scene: Points, gallery: list[Points], table_of: Tables
) -> None:
    shared = Matcher([scene], table_of(gallery)).shared(0, 1)
    for row, (x, y), (u, v) in zip(shared.as_rows(), shared.box_xy, shared.item_xy, strict=True):
        assert row == pytest.approx([x, y, u / 200, v / 200], abs=0.06)


def test_photos_without_points_share_none(scene: Points, table_of: Tables) -> None:
    matcher = Matcher([scene, NO_POINTS], table_of([NO_POINTS, scene]))
    assert len(matcher.shared(0, 0)) == 0
    assert len(matcher.shared(1, 1)) == 0
