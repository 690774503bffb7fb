"""How well boxes find products: COCO's average recall, and precision of confident boxes."""

from collections.abc import Sequence

import numpy as np

from product1m.data.geometry import Boxes, match_boxes

RECALL_IOUS = np.linspace(0.5, 0.95, 10)
"""IoU thresholds whose recalls are averaged (COCO)."""


def recall(
    proposals: Sequence[Boxes], truth: Sequence[Boxes], max_proposals: int, min_iou: float
) -> float:
    """Share of true boxes that the best `max_proposals` of their photo match; 0 without any."""
    matched = [
        match_boxes(boxes[:max_proposals], true, min_iou)[1]
        for boxes, true in zip(proposals, truth, strict=True)
    ]
    taken = np.concatenate(matched)
    return float(taken.mean()) if len(taken) else 0.0


def average_recall(proposals: Sequence[Boxes], truth: Sequence[Boxes], max_proposals: int) -> float:
    """AR@`max_proposals`: recall averaged over IoU 0.5, 0.55, …, 0.95 (COCO)."""
    return float(np.mean([recall(proposals, truth, max_proposals, iou) for iou in RECALL_IOUS]))


def precision_and_recall(
    boxes: Sequence[Boxes], truth: Sequence[Boxes], min_iou: float = 0.5
) -> tuple[float, float]:
    """Share of the boxes that match a true box, and share of the true boxes that are matched.

    `boxes[s]` and `truth[s]` belong to one photo. Precision is 0 if there are no boxes at all,
    recall if there are no products.
    """
    pairs = [match_boxes(ours, true, min_iou) for ours, true in zip(boxes, truth, strict=True)]
    matched = np.concatenate([ours for ours, _ in pairs])
    taken = np.concatenate([true for _, true in pairs])
    precision, recall = (float(own.mean()) if len(own) else 0.0 for own in (matched, taken))
    return precision, recall
