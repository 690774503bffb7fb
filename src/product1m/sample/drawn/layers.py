"""Put layers into a photo, and keep track of which product each pixel shows."""

import cv2
import numpy as np
from jaxtyping import Float32

from product1m.sample.drawn.surfaces import Image

Layer = Float32[np.ndarray, "h w 4"]
PixelBox = tuple[int, int, int, int]
"""x1, y1, x2, y2 in pixels."""
_SOLID = 0.5
"""Alpha from which a pixel shows the product (ours)."""


class ProductMap:
    """Which product each pixel shows: the last one put there."""

    def __init__(self, height: int, width: int) -> None:
        self._product = np.full((height, width), -1, np.int16)
        self._labels: list[str] = []

    def add(self, layer: Layer, x: int, y: int, label: str) -> None:
        """Put a product in front of those already there."""
        spot = window_of(self._product, (layer.shape[0], layer.shape[1]), x, y)
        if spot is not None:
            solid = layer[spot[2], spot[3], 3] >= _SOLID
            self._product[spot[0], spot[1]][solid] = len(self._labels)
        self._labels.append(label)

    def boxes(self) -> list[tuple[PixelBox, str]]:
        """Boxes and labels of all products with a visible part, left to right."""
        boxes = []
        for number, label in enumerate(self._labels):
            rows, columns = np.nonzero(self._product == number)
            if len(rows):
                low, high = (columns.min(), rows.min()), (columns.max() + 1, rows.max() + 1)
                box = (int(low[0]), int(low[1]), int(high[0]), int(high[1]))
                boxes.append((box, label))
        return sorted(boxes)


def window_of(
    image: np.ndarray, size: tuple[int, int], x: int, y: int
) -> tuple[slice, slice, slice, slice] | None:
    """Overlap of the image and a layer at (x, y): image rows, columns, layer rows, columns."""
    (height, width), (rows, columns) = image.shape[:2], size
    top, left = max(y, 0), max(x, 0)
    bottom, right = min(y + rows, height), min(x + columns, width)
    if top >= bottom or left >= right:
        return None
    return (
        slice(top, bottom),
        slice(left, right),
        slice(top - y, bottom - y),
        slice(left - x, right - x),
    )


def paste(image: Image, layer: Layer, x: int, y: int) -> None:
    """Put a layer over the image, its top left corner at (x, y)."""
    spot = window_of(image, (layer.shape[0], layer.shape[1]), x, y)
    if spot is not None:
        part = layer[spot[2], spot[3]]
        image[spot[0], spot[1]] = image[spot[0], spot[1]] * (1 - part[:, :, 3:]) + part[:, :, :3]


def cast_shadow(
    image: Image,
    shape: Float32[np.ndarray, "h w"],
    x: float,
    y: float,
    blur: float,
    strength: float,
) -> None:
    """Darken the image by a blurred shape."""
    pad = int(3 * blur)
    soft = cv2.GaussianBlur(np.pad(shape, pad), (0, 0), blur)
    spot = window_of(image, (soft.shape[0], soft.shape[1]), int(x) - pad, int(y) - pad)
    if spot is not None:
        image[spot[0], spot[1]] *= 1 - strength * soft[spot[2], spot[3]][:, :, None]
