"""Boxes that need no network: whole photo, GrabCut's foreground, the usual places of products."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32

from product1m.artifacts.folder import Artifact
from product1m.config import BackgroundSynthesisConfig
from product1m.data.geometry import Boxes, pairwise_iou
from product1m.data.photos import Photo
from product1m.synthesis.grabcut import GrabCutSettings, foreground

SCENES = "background_synthesis/scenes"
"""Key of the scenes in the lineage of what was made from them."""
_MAX_KNOWN = 1000


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


def usual_places(
    boxes_xyxy: Sequence[Boxes], sizes: Float[np.ndarray, "S 2"], number: int
) -> Float32[np.ndarray, "P 4"]:
    """The places that cover the known products best, relative to the photo, best first (ours).

    Each place is the box of a known product, chosen greedily: the next one is the box that raises
    the mean IoU of the products with their nearest place most. At most 1,000 products are used,
    evenly spaced.

    Args:
        boxes_xyxy: the products of each known scene.
        sizes: width and height of each scene.
        number: number of places; fewer if fewer products are known.
    """
    known = np.concatenate(
        [boxes / np.tile(size, 2) for boxes, size in zip(boxes_xyxy, sizes, strict=True)]
    )
    known = known[np.unique(np.linspace(0, len(known) - 1, min(len(known), _MAX_KNOWN), dtype=int))]
    overlaps = pairwise_iou(known)
    covered = np.zeros(len(known))
    chosen: list[int] = []
    while len(chosen) < min(number, len(known)):
        gains = np.maximum(overlaps, covered).sum(axis=1)
        gains[chosen] = -1.0
        chosen.append(int(gains.argmax()))
        covered = np.maximum(covered, overlaps[chosen[-1]])
    return np.asarray(known[chosen], np.float32)


def grabcut_of_scenes(rpn: Artifact) -> GrabCutSettings | None:
    """How GrabCut cut out the products of the scenes that an RPN was trained on.

    None if the RPN's artifact does not know its scenes.
    """
    scenes = rpn.manifest.lineage.get(SCENES)
    if scenes is None:
        return None
    return GrabCutSettings.from_config(BackgroundSynthesisConfig.model_validate(scenes.config))
