"""Points of photos, and the table that keeps them."""

from pathlib import Path

import numpy as np

from product1m.data.points import NO_POINTS, POINTS, ROWS_PER_BATCH, Points, PointTable
from tests.support.worlds.point_files import write_points


def some_points(number: int, seed: int) -> Points:
    generator = np.random.default_rng(seed)
    places = generator.uniform(0, 100, (number, 2)).astype(np.float32)
    descriptors = generator.integers(0, 256, (number, 128)).astype(np.uint8)
    colors = generator.integers(0, 256, (number, 2)).astype(np.uint8)
    chroma = generator.integers(0, 256, (24 + seed % 24, 48, 2)).astype(np.uint8)
    return Points(places, descriptors, (100 + seed, 50), colors, chroma)


def test_a_box_has_the_points_that_lie_in_it() -> None:
    points = some_points(40, 0)
    inside = points.inside(np.array([10, 20, 60, 70], np.float32))
    rows = [row for row, (x, y) in enumerate(points.points_xy) if 10 <= x <= 60 and 20 <= y <= 70]
    assert 0 < len(rows) < 40
    np.testing.assert_array_equal(inside.points_xy, points.points_xy[rows])
    np.testing.assert_array_equal(inside.descriptors, points.descriptors[rows])
    assert points.colors is not None
    np.testing.assert_array_equal(inside.colors, points.colors[rows])
    assert inside.area_xyxy is not None
    assert inside.area_xyxy.tolist() == [10, 20, 60, 70]
    assert inside.chroma is points.chroma


def test_the_table_gives_back_what_was_written_whatever_batch_it_is_in(tmp_path: Path) -> None:
    written = [some_points(row % 5, row) for row in range(2 * ROWS_PER_BATCH + 3)]
    write_points(tmp_path, written)
    table = PointTable(tmp_path / POINTS)
    assert len(table) == len(written)
    for row in (0, 4, ROWS_PER_BATCH - 1, ROWS_PER_BATCH, 2 * ROWS_PER_BATCH + 2):
        np.testing.assert_array_equal(table[row].points_xy, written[row].points_xy)
        np.testing.assert_array_equal(table[row].descriptors, written[row].descriptors)
        np.testing.assert_array_equal(table[row].colors, written[row].colors)
        np.testing.assert_array_equal(table[row].chroma, written[row].chroma)
        assert table[row].size_px == (100 + row, 50)


def test_a_table_of_photos_without_points(tmp_path: Path) -> None:
    write_points(tmp_path, [NO_POINTS])
    assert len(PointTable(tmp_path / POINTS)[0]) == 0
    write_points(tmp_path, [])
    assert len(PointTable(tmp_path / POINTS)) == 0


def test_250_points_of_an_item_with_its_colors_take_less_than_40_kb(tmp_path: Path) -> None:
    write_points(tmp_path, [some_points(250, 23) for _ in range(50)])
    assert (tmp_path / POINTS).stat().st_size / 50 < 40_000
