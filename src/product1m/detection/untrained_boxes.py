"""Boxes that need no training: the whole photo, and a box around GrabCut's foreground."""

import numpy as np

from product1m.artifacts.folder import Artifact
from product1m.config import BackgroundSynthesisConfig
from product1m.data.geometry import Boxes
from product1m.data.photos import Photo
from product1m.synthesis.grabcut import GrabCutSettings, foreground

SCENES = "background_synthesis/scenes"
"""Key of the scenes in the lineage of what was made from them."""


def whole_image_box(width: int, height: int) -> Boxes:
    """The photo itself as its only box."""
    return np.array([[0, 0, width, height]], np.float32)


def grabcut_box(photo: Photo, settings: GrabCutSettings) -> Boxes:
    """The box around GrabCut's largest foreground; the whole photo if GrabCut finds nothing."""
    mask, _ = foreground(photo, settings)
    height, width = photo.shape[:2]
    y, x = np.nonzero(mask)
    if not len(x):
        return whole_image_box(width, height)
    scale = np.array([width / mask.shape[1], height / mask.shape[0]] * 2, np.float32)
    return np.array([[x.min(), y.min(), x.max() + 1, y.max() + 1]], np.float32) * scale


def grabcut_of_scenes(rpn: Artifact) -> GrabCutSettings | None:
    """How GrabCut cut out the products of the scenes that an RPN was trained on.

    None if the RPN's artifact does not know its scenes.
    """
    scenes = rpn.manifest.lineage.get(SCENES)
    if scenes is None:
        return None
    return GrabCutSettings.from_config(BackgroundSynthesisConfig.model_validate(scenes.config))
