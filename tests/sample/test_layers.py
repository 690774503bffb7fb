"""Boxes of products in a drawn photo: around the pixels that show them, by hand."""

import numpy as np

from product1m.sample.drawn.layers import ProductMap


def layer(height: int, width: int, alpha: float = 1.0) -> np.ndarray:
    return np.full((height, width, 4), alpha, np.float32)


def test_a_box_surrounds_what_later_products_leave_visible() -> None:
    product_map = ProductMap(height=20, width=30)
    product_map.add(layer(10, 10), x=2, y=5, label="back")
    product_map.add(layer(20, 6), x=6, y=0, label="front")
    assert product_map.boxes() == [((2, 5, 6, 15), "back"), ((6, 0, 12, 20), "front")]


def test_a_hidden_product_has_no_box_and_a_cut_off_one_ends_at_the_photo() -> None:
    product_map = ProductMap(height=20, width=30)
    product_map.add(layer(4, 4), x=26, y=1, label="hidden")
    product_map.add(layer(8, 8), x=25, y=-2, label="cut off")
    product_map.add(layer(4, 4), x=40, y=0, label="outside")
    assert product_map.boxes() == [((25, 0, 30, 6), "cut off")]


def test_pixels_that_are_mostly_transparent_do_not_count() -> None:
    product_map = ProductMap(height=20, width=30)
    faint = layer(6, 6, alpha=0.4)
    faint[2:4, 1:5, 3] = 0.6
    product_map.add(faint, x=10, y=10, label="faint")
    assert product_map.boxes() == [((11, 12, 15, 14), "faint")]
