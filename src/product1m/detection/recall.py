"""How well boxes find products: COCO's average recall, and precision of confident instances."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32

Boxes = Float32[np.ndarray, "K 4"]
RECALL_IOUS = np.linspace(0.5, 0.95, 10)
"""IoU thresholds whose recalls are averaged (COCO)."""


def box_iou(
    one: Float[np.ndarray, "P 4"], two: Float[np.ndarray, "K 4"]
) -> Float[np.ndarray, "P K"]:
    """Intersection over union of every pair."""
    low = np.maximum(one[:, None, :2], two[None, :, :2])
    high = np.minimum(one[:, None, 2:], two[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1) for boxes in (one, two)]
    union = areas[0][:, None] + areas[1][None] - common
    return np.asarray(common / np.maximum(union, 1e-9))


def matched(
    proposals: Boxes, truth: Boxes, min_iou: float
) -> tuple[Bool[np.ndarray, " P"], Bool[np.ndarray, " K"]]:
    """Which proposals and which true boxes are matched, one to one (COCO).

    Best first, a proposal takes the true box of highest IoU that is still free, if that IoU is at
    least `min_iou`.
    """
    overlap = box_iou(proposals, truth)
    used, taken = np.zeros(len(proposals), bool), np.zeros(len(truth), bool)
    for row, ious in enumerate(overlap):
        free = np.where(taken, -1.0, ious)
        if len(free) and free.max() >= min_iou:
            used[row] = taken[free.argmax()] = True
    return used, taken


def recall(
    proposals: Sequence[Boxes], truth: Sequence[Boxes], max_proposals: int, min_iou: float
) -> float:
    """Share of all true boxes that the best `max_proposals` of their photo match."""
    found = [
        matched(boxes[:max_proposals], true, min_iou)[1]
        for boxes, true in zip(proposals, truth, strict=True)
    ]
    return float(np.concatenate(found).mean())


def average_recall(proposals: Sequence[Boxes], truth: Sequence[Boxes], max_proposals: int) -> float:
    """AR@`max_proposals`: recall averaged over IoU 0.5, 0.55, …, 0.95 (COCO)."""
    return float(np.mean([recall(proposals, truth, max_proposals, iou) for iou in RECALL_IOUS]))


def precision_and_recall(
    instances: Sequence[Boxes], truth: Sequence[Boxes], min_iou: float = 0.5
) -> tuple[float, float]:
    """Of instances found and of true products, the share that match each other."""
    pairs = [matched(boxes, true, min_iou) for boxes, true in zip(instances, truth, strict=True)]
    found = np.concatenate([used for used, _ in pairs])
    wanted = np.concatenate([taken for _, taken in pairs])
    return float(found.mean()) if len(found) else 0.0, float(wanted.mean())
