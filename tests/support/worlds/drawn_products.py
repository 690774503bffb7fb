"""Drawn products of a few invented brands, and their captions."""

from collections.abc import Iterator

import numpy as np

from product1m.data.photos import Photo

BRANDS = ("花露AURA", "青山MONTE")
LINES = ("玫瑰", "海盐", "竹炭", "蜂蜜", "绿茶")
KINDS = ("润肤霜 50ml", "洁面乳 120ml")
NUM_PRODUCTS = len(BRANDS) * len(LINES) * len(KINDS)


def draw_product(number: int, variant: int = 0) -> Photo:
    """A pack on white; another variant shows it elsewhere in the photo."""
    rng = np.random.default_rng(number)
    photo = np.full((120, 120, 3), 255, np.uint8)
    width, height = (int(side) for side in rng.integers(40, 70, 2))
    left, top = 20 + 8 * variant, 15 + 6 * variant
    photo[top : top + height, left : left + width] = rng.integers(0, 160, 3)
    photo[top + 8 : top + 20, left + 5 : left + width - 5] = rng.integers(90, 250, 3)
    return photo


def draw_pair() -> Photo:
    photo = np.full((120, 120, 3), 255, np.uint8)
    photo[30:90, 10:45] = (150, 20, 20)
    photo[30:90, 75:110] = (20, 20, 150)
    return photo


def captions() -> Iterator[str]:
    for brand in BRANDS:
        for line in LINES:
            for kind in KINDS:
                yield f"{brand}{line}系列补水保湿{kind}"
