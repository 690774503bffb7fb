"""Numbers of shared points, kept between rankings."""

from pathlib import Path

import numpy as np
import pytest

from product1m.data.points import POINTS, Points, PointTable
from product1m.detection.points import PointFinder
from product1m.retrieval.query_vectors import SharedCounts
from product1m.retrieval.shared_points import Matcher, PreparedItems
from tests.support.worlds.point_files import write_points
from tests.support.worlds.printed_packs import placed, printed_pack, scene_of

PACKS = [printed_pack(seed) for seed in range(2)]
PLACES = [placed(PACKS[0], 25, 0.8, (110, 120)), placed(PACKS[1], -140, 0.9, (290, 290))]
BOXES = [np.array(box, np.float32) for box in ((0, 0, 200, 220), (190, 190, 400, 400))]


class OnePhoto:
    """The points of a feature set with one photo."""

    def __init__(self, points: Points) -> None:
        self._points = points

    def points(self, row: int) -> Points:
        assert row == 0
        return self._points


class CountedTable(PointTable):
    """A table that notes which rows were read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.read: list[int] = []

    def __getitem__(self, position: int) -> Points:
        self.read.append(position)
        return super().__getitem__(position)


@pytest.fixture
def table(tmp_path: Path) -> CountedTable:
    write_points(tmp_path, [PointFinder(280, 0).find(pack) for pack in PACKS])
    return CountedTable(tmp_path / POINTS)


def test_boxes_share_what_a_matcher_counts_and_read_each_gallery_photo_once(
    table: CountedTable,
) -> None:
    scene = PointFinder(1500, 0).find(scene_of(list(zip(PACKS, PLACES, strict=True))))
    positions = np.array([1, 0])
    expected = [
        Matcher([scene.inside(box)], PreparedItems(table)).count(0, positions) for box in BOXES
    ]
    assert [counts[:, 0].argmax() for counts in expected] == [1, 0]
    table.read.clear()
    shared = SharedCounts(OnePhoto(scene), table)  # type: ignore[arg-type]  # all that it reads
    for box, counts in zip(BOXES, expected, strict=True):
        assert shared.counts(0, box, positions).tolist() == counts.tolist()
    assert shared.counts(0, BOXES[0], positions[1:]).tolist() == expected[0][1:].tolist()
    assert sorted(table.read) == [0, 1]
