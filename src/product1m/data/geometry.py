"""Box geometry: area, overlap, selection and matching to true boxes.

A box is `x1, y1, x2, y2` with x2 and y2 on its outer edge, so its width is x2 - x1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64

CORNERS = ("x1", "y1", "x2", "y2")
"""Columns of a box in a table."""

Boxes = Float32[np.ndarray, "K 4"]
"""Boxes of one photo in absolute pixels."""


def areas(boxes_xyxy: Float[np.ndarray, "*N 4"]) -> Float[np.ndarray, "*N"]:
    """Area of each box; 0 if a side is not positive."""
    sides = np.clip(boxes_xyxy[..., 2:] - boxes_xyxy[..., :2], 0, None)
    return np.asarray(np.prod(sides, axis=-1))


def intersections(
    boxes_xyxy: Float[np.ndarray, "*N P 4"], others_xyxy: Float[np.ndarray, "*N K 4"]
) -> Float[np.ndarray, "*N P K"]:
    """Common area of every box with every other box of the same photo."""
    boxes, others = boxes_xyxy[..., :, None, :], others_xyxy[..., None, :, :]
    low = np.maximum(boxes[..., :2], others[..., :2])
    high = np.minimum(boxes[..., 2:], others[..., 2:])
    return np.asarray(np.prod(np.clip(high - low, 0, None), axis=-1))


def pairwise_iou(
    boxes_xyxy: Float[np.ndarray, "*N P 4"], others_xyxy: Float[np.ndarray, "*N K 4"] | None = None
) -> Float[np.ndarray, "*N P K"]:
    """Intersection over union of every box with every other box of the same photo.

    Without `others_xyxy` the boxes are compared with each other. Two boxes without area have an
    IoU of 0.
    """
    others = boxes_xyxy if others_xyxy is None else others_xyxy
    common = intersections(boxes_xyxy, others)
    union = areas(boxes_xyxy)[..., :, None] + areas(others)[..., None, :] - common
    return np.asarray(np.divide(common, union, out=np.zeros_like(common), where=union > 0))


def share_inside(
    boxes_xyxy: Float[np.ndarray, "P 4"], frame_xyxy: Float[np.ndarray, "4"]
) -> Float[np.ndarray, " P"]:
    """Share of each box's area inside a frame; 0 for a box without area."""
    common = intersections(boxes_xyxy, frame_xyxy[None])[:, 0]
    own = areas(boxes_xyxy)
    return np.asarray(np.divide(common, own, out=np.zeros_like(common), where=own > 0))


def share_of_smaller(boxes_xyxy: Float[np.ndarray, "P 4"]) -> Float[np.ndarray, "P P"]:
    """Common area of every two boxes as a share of the smaller one; 1 if one is inside the other.

    0 for a box without area.
    """
    common, own = intersections(boxes_xyxy, boxes_xyxy), areas(boxes_xyxy)
    smaller = np.minimum(own[:, None], own)
    return np.asarray(np.divide(common, smaller, out=np.zeros_like(common), where=smaller > 0))


CHOSEN_BOXES, MIN_SCORE, NMS_IOU = "boxes", "min_score", "nms_iou"
"""Keys in the details of an RPN and of features: thresholds chosen on held-out scenes."""
DEFAULT_MIN_SCORE, DEFAULT_NMS_IOU = 0.3, 0.5
"""Thresholds for an artifact that carries none, and where held-out scenes start from (ours)."""
SUREST_ODDS = 1.25
"""A photo shows products only if the odds of its surest box's score are this many times those of
the threshold (0.35 for 0.3): photos without products have single boxes just above it (ours)."""
NESTED_WEIGHT = 0.5
"""Share of its score that a box loses if it lies inside a box with a higher score, or around one
(ours)."""


@dataclass(frozen=True)
class BoxSelection:
    """Which scored boxes of a photo count as products."""

    min_score: float
    """Threshold for the detector score, less what the overlap with surer boxes costs."""
    max_iou: float
    """If the IoU of two boxes exceeds this, the one with the lower score is dropped."""
    max_boxes: int

    @property
    def min_best_score(self) -> float:
        """Threshold for the highest detector score of a photo that shows products at all."""
        return SUREST_ODDS * self.min_score / (1 + (SUREST_ODDS - 1) * self.min_score)


def chosen_boxes(
    details: Mapping[str, Any], max_boxes: int, min_score: float = 0, nms_iou: float = 0
) -> BoxSelection:
    """The selection with the given thresholds; 0 takes the one in an artifact's details."""
    chosen = details.get(CHOSEN_BOXES, {})
    return BoxSelection(
        min_score or chosen.get(MIN_SCORE, DEFAULT_MIN_SCORE),
        nms_iou or chosen.get(NMS_IOU, DEFAULT_NMS_IOU),
        max_boxes,
    )


def select_boxes(
    boxes_xyxy: Float[np.ndarray, "P 4"], scores: Float[np.ndarray, " P"], selection: BoxSelection
) -> Int64[np.ndarray, " K"]:
    """Rows of the boxes that count as products, by falling score."""
    confident = np.flatnonzero(scores >= selection.min_score)
    if not (scores[confident] >= selection.min_best_score).any():
        return np.empty(0, np.int64)
    kept = confident[_distinct(boxes_xyxy[confident], scores[confident], selection)]
    return np.asarray(kept[np.argsort(-scores[kept], kind="stable")].astype(np.int64))


def _distinct(
    boxes_xyxy: Float[np.ndarray, "P 4"], scores: Float[np.ndarray, " P"], selection: BoxSelection
) -> Int64[np.ndarray, " K"]:
    """Rows of at most `max_boxes` boxes that are left after suppression, surest first.

    Besides what NMS drops, every box loses score to each kept one: `NESTED_WEIGHT` times the square
    of the common share of the smaller box (as soft-NMS does by IoU, Bodla et al., 2017; ours).
    Parts of a product and boxes around several thus need higher scores. Equal scores keep their
    order.
    """
    overlaps, nested = pairwise_iou(boxes_xyxy), share_of_smaller(boxes_xyxy)
    left = scores.astype(np.float32)
    kept: list[int] = []
    while len(kept) < selection.max_boxes and len(left) and left.max() > 0:
        row = int(left.argmax())
        kept.append(row)
        left *= 1 - NESTED_WEIGHT * nested[row] ** 2
        left[(overlaps[row] > selection.max_iou) | (left < selection.min_score)] = 0
        left[row] = 0
    return np.array(kept, np.int64)


def match_boxes(
    boxes_xyxy: Float[np.ndarray, "P 4"], true_xyxy: Float[np.ndarray, "K 4"], min_iou: float
) -> tuple[Bool[np.ndarray, " P"], Bool[np.ndarray, " K"]]:
    """Match boxes to true boxes, one to one; True for each box and each true box with a partner.

    Boxes come best first. Each takes the true box with the highest IoU among those that have no
    partner yet, if that IoU is at least `min_iou` (COCO).
    """
    matched, taken = np.zeros(len(boxes_xyxy), bool), np.zeros(len(true_xyxy), bool)
    for row, overlaps in enumerate(pairwise_iou(boxes_xyxy, true_xyxy)):
        free = np.where(taken, -1.0, overlaps)
        if len(free) and free.max() >= min_iou:
            matched[row] = taken[free.argmax()] = True
    return matched, taken
