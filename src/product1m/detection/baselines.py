"""What finds a product without training: the whole photo, and a box around GrabCut's foreground."""

import cv2
import numpy as np

from product1m.data.photos import Photo, resize_photo
from product1m.detection.scenes import Boxes

_SIDE_PX = 160
_ITERATIONS = 3
_MARGIN = 0.02
"""Frame that GrabCut takes for background, relative to the sides (ours)."""


def whole_image_box(photo: Photo) -> Boxes:
    """The photo itself as its only proposal."""
    height, width = photo.shape[:2]
    return np.array([[0, 0, width, height]], np.float32)


def grabcut_box(photo: Photo) -> Boxes:
    """The box around what GrabCut takes for foreground, started from all but a thin frame.

    The whole photo where it finds no foreground.
    """
    height, width = photo.shape[:2]
    scale = min(1.0, _SIDE_PX / max(height, width))
    small = resize_photo(photo, scale)
    rows, columns = small.shape[:2]
    left, top = max(1, round(columns * _MARGIN)), max(1, round(rows * _MARGIN))
    mask = np.zeros((rows, columns), np.uint8)
    background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
    frame = (left, top, columns - 2 * left, rows - 2 * top)
    cv2.setRNGSeed(0)
    cv2.grabCut(small, mask, frame, background, foreground, _ITERATIONS, cv2.GC_INIT_WITH_RECT)
    y, x = np.nonzero((mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD))
    if not len(x):
        return whole_image_box(photo)
    box = np.array([[x.min(), y.min(), x.max() + 1, y.max() + 1]], np.float32)
    return np.asarray(box * np.array([width / columns, height / rows] * 2, np.float32))
