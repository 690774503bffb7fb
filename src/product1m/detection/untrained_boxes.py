"""What finds a product without training: the whole photo, and a box around GrabCut's foreground."""

import numpy as np

from product1m.config import BackgroundSynthesisConfig
from product1m.data.geometry import Boxes
from product1m.data.photos import Photo
from product1m.synthesis.grabcut import GrabCut, foreground


def whole_image_box(width: int, height: int) -> Boxes:
    """The photo itself as its only proposal."""
    return np.array([[0, 0, width, height]], np.float32)


def grabcut_box(photo: Photo, config: BackgroundSynthesisConfig) -> Boxes:
    """The box around GrabCut's largest foreground, started from all but a thin frame.

    It runs as it ran when the products were cut out. The whole photo where it finds nothing.
    """
    settings = GrabCut(
        config.grabcut_side_px,
        config.grabcut_iterations,
        config.grabcut_margin,
        config.grabcut_dither,
    )
    mask, _ = foreground(photo, settings, config.seed)
    height, width = photo.shape[:2]
    y, x = np.nonzero(mask)
    if not len(x):
        return whole_image_box(width, height)
    scale = np.array([width / mask.shape[1], height / mask.shape[0]] * 2, np.float32)
    return np.array([[x.min(), y.min(), x.max() + 1, y.max() + 1]], np.float32) * scale
