"""Which lines belong to a box, and the table that keeps them."""

from pathlib import Path

import numpy as np

from product1m.data.printed_lines import (
    LINES,
    NO_LINES,
    ROWS_PER_BATCH,
    LineTable,
    LineWriter,
    PrintedLines,
    joined,
    shares_inside,
    without_repeats,
)


def lines(**quads: list[list[float]]) -> PrintedLines:
    """Lines by their text."""
    corners = np.array(list(quads.values()), np.float32).reshape(-1, 4, 2)
    return PrintedLines(corners, tuple(quads), np.full(len(quads), 0.9, np.float32))


def upright(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def test_the_share_of_a_quadrilateral_inside_a_box_is_that_of_its_pixels() -> None:
    generator = np.random.default_rng(0)
    box = np.array([20, 30, 70, 60], np.float32)
    fine = (np.stack(np.meshgrid(np.arange(500), np.arange(500)), axis=-1) + 0.5) / 5
    for _ in range(3):
        angle, center, size = generator.uniform(0, 6), generator.uniform(25, 65, 2), [30, 12]
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        quad = (np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2 * size) @ turn.T + center
        inside_quad = (np.abs((fine - center) @ turn) <= np.array(size) / 2).all(axis=-1)
        inside_box = ((fine >= box[:2]) & (fine <= box[2:])).all(axis=-1)
        expected = (inside_quad & inside_box).sum() / inside_quad.sum()
        shares = shares_inside(quad[None].astype(np.float32), box)
        np.testing.assert_allclose(shares, [expected], atol=0.02)


def test_lines_of_neighbors_that_come_interleaved_belong_to_their_own_boxes() -> None:
    found = lines(
        LIME=upright(10, 10, 40, 20),
        SALT=upright(110, 12, 140, 22),
        CHIPS=upright(12, 30, 45, 40),
        NUTS=upright(105, 30, 150, 40),
    )
    assert found.inside(np.array([0, 0, 100, 100], np.float32)).texts == ("LIME", "CHIPS")
    assert found.inside(np.array([100, 0, 200, 100], np.float32)).texts == ("SALT", "NUTS")


def test_a_line_across_an_edge_belongs_to_the_box_that_holds_half_of_it() -> None:
    found = lines(MOSTLY=upright(0, 0, 59, 10), HARDLY=upright(41, 20, 141, 30))
    assert found.inside(np.array([0, 0, 50, 100], np.float32)).texts == ("MOSTLY",)


def test_a_line_without_area_belongs_to_no_box() -> None:
    assert not len(lines(DOT=upright(5, 5, 5, 5)).inside(np.array([0, 0, 10, 10], np.float32)))


def test_of_two_readings_of_one_line_the_longer_stays() -> None:
    twice = joined(
        [
            lines(VEGETABLE=upright(0, 0, 80, 10), CHIPS=upright(0, 20, 50, 30)),
            lines(TABLE=upright(40, 1, 80, 11), SALT=upright(0, 40, 50, 50)),
        ]
    )
    assert without_repeats(twice).texts == ("VEGETABLE", "CHIPS", "SALT")


def test_the_table_gives_every_item_its_own_lines(tmp_path: Path) -> None:
    num_items = ROWS_PER_BATCH + 3
    with LineWriter(tmp_path) as writer:
        for number in range(num_items):
            words = {f"word {number}": upright(number, 0, number + 9, 5), "水": upright(0, 0, 1, 1)}
            writer.add(lines(**words) if number % 3 else NO_LINES)
    table = LineTable(tmp_path / LINES)
    assert not len(table[0])
    for number in (1, ROWS_PER_BATCH, ROWS_PER_BATCH + 1):
        assert table[number].texts == (f"word {number}", "水")
        np.testing.assert_array_equal(
            table[number].quads_xy[0], np.array(upright(number, 0, number + 9, 5), np.float32)
        )
        np.testing.assert_allclose(table[number].scores, 0.9)
