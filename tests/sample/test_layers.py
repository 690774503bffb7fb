"""Boxes of products in a drawn photo: around the pixels that show them, by hand."""

import numpy as np

from product1m.sample.drawn.layers import Seen


def layer(height: int, width: int, alpha: float = 1.0) -> np.ndarray:
    return np.full((height, width, 4), alpha, np.float32)


def test_a_box_surrounds_what_later_products_leave_visible() -> None:
    seen = Seen(height=20, width=30)
    seen.add(layer(10, 10), x=2, y=5, label="back")
    seen.add(layer(20, 6), x=6, y=0, label="front")
    assert seen.boxes() == [((2, 5, 6, 15), "back"), ((6, 0, 12, 20), "front")]


def test_a_hidden_product_has_no_box_and_a_cut_off_one_ends_at_the_photo() -> None:
    seen = Seen(height=20, width=30)
    seen.add(layer(4, 4), x=26, y=1, label="hidden")
    seen.add(layer(8, 8), x=25, y=-2, label="cut off")
    seen.add(layer(4, 4), x=40, y=0, label="outside")
    assert seen.boxes() == [((25, 0, 30, 6), "cut off")]


def test_pixels_that_are_mostly_transparent_do_not_count() -> None:
    seen = Seen(height=20, width=30)
    faint = layer(6, 6, alpha=0.4)
    faint[2:4, 1:5, 3] = 0.6
    seen.add(faint, x=10, y=10, label="faint")
    assert seen.boxes() == [((11, 12, 15, 14), "faint")]
