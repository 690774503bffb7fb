"""Photos as the network sees them: resized, and padded to whole strides."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from product1m.data.photos import Photo, fit_within, resize_photo

STRIDE = 32
"""The sides of a canvas are multiples of this, so that every map has whole cells (ours)."""


@dataclass(frozen=True)
class Canvas:
    """A photo at the network's size.

    Its last row and column are repeated up to whole strides, so the network's input for a photo
    depends only on that photo, never on its batch.
    """

    pixels: UInt8[np.ndarray, "H W 3"]
    inner_px: tuple[int, int]
    """Height and width of the photo on the canvas; the rest is padding."""
    photo_px: tuple[int, int]
    """Height and width of the stored photo."""

    def scale(self) -> Float32[np.ndarray, "4"]:
        """Factors from boxes on the stored photo to boxes on the canvas."""
        height, width = np.array(self.inner_px) / np.array(self.photo_px)
        return np.array([width, height, width, height], np.float32)


def canvas_px(width: int, height: int, short_side_px: int, long_side_px: int) -> tuple[int, int]:
    """Height and width of the canvas of a photo of the given size."""
    scale = fit_within(width, height, short_side_px, long_side_px)
    across, down = (max(1, round(side * scale)) for side in (width, height))
    return down + -down % STRIDE, across + -across % STRIDE


def make_canvas(photo: Photo, short_side_px: int, long_side_px: int) -> Canvas:
    """Resize a photo to the shorter side unless the longer would exceed its limit, and pad it."""
    height, width = photo.shape[:2]
    resized = resize_photo(photo, fit_within(width, height, short_side_px, long_side_px))
    below, right = (-side % STRIDE for side in resized.shape[:2])
    padded = cv2.copyMakeBorder(resized, 0, below, 0, right, cv2.BORDER_REPLICATE)
    return Canvas(np.asarray(padded), (resized.shape[0], resized.shape[1]), (height, width))


def stack_canvases(canvases: Sequence[Canvas]) -> UInt8[Tensor, "B 3 H W"]:
    """Canvases as one batch, padded with black to the largest if they differ."""
    height = max(canvas.pixels.shape[0] for canvas in canvases)
    width = max(canvas.pixels.shape[1] for canvas in canvases)
    batch = np.zeros((len(canvases), height, width, 3), np.uint8)
    for row, canvas in zip(batch, canvases, strict=True):
        row[: canvas.pixels.shape[0], : canvas.pixels.shape[1]] = canvas.pixels
    return torch.from_numpy(batch).permute(0, 3, 1, 2)
