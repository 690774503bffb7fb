"""Measure how well proposed boxes match the products of scenes; no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from product1m.data.geometry import (
    DEFAULT_MIN_SCORE,
    DEFAULT_NMS_IOU,
    Boxes,
    BoxSelection,
    select_boxes,
)
from product1m.detection.recall import average_recall, precision_and_recall, recall

DEPTHS = (1, 10, 36, 100)
"""Numbers of proposals at which average recall is measured; feature extraction keeps 36."""

IMAGE_ONLY = "image_only/mAP@10"
IMAGE_ONLY_BEFORE = "image_only/mAP@10_before"
IMAGE_ONLY_TRAINED = "image_only/mAP@10_trained"
BACKBONE_KEPT = "image_only/trained_backbone_kept"
"""Metrics of a network whose backbone was trained: pasted products found by image alone, with the
backbone that stays, as it was before, and trained with instances; whether that one stays (1 or
0)."""
MIN_SCORES = (*(round(0.05 * step, 2) for step in range(2, 20)), 0.98, 0.99)
"""Thresholds of the score that are tried for selecting products (ours)."""


@dataclass(frozen=True)
class ScoredBoxes:
    """Proposals on one scene, best first, in pixels of the stored scene."""

    boxes_xyxy: Boxes
    scores: Float32[np.ndarray, " P"]
    """Detector scores in 0 … 1."""

    def best(self, number: int) -> "ScoredBoxes":
        """The first boxes."""
        return ScoredBoxes(self.boxes_xyxy[:number], self.scores[:number])

    def select(self, selection: BoxSelection) -> "ScoredBoxes":
        """The boxes that count as products."""
        rows = select_boxes(self.boxes_xyxy, self.scores, selection)
        return ScoredBoxes(self.boxes_xyxy[rows], self.scores[rows])


def recalls(
    boxes: Sequence[Boxes], truth: Sequence[Boxes], depths: Sequence[int] = DEPTHS
) -> dict[str, float]:
    """COCO's average recall, and recall at IoU 0.5, for the best boxes of every scene."""
    return {
        **{f"AR@{depth}": average_recall(boxes, truth, depth) for depth in depths},
        **{f"recall@0.5/{depth}": recall(boxes, truth, depth, 0.5) for depth in depths},
    }


def best_selection(proposals: Sequence[ScoredBoxes], truth: Sequence[Boxes]) -> BoxSelection:
    """The thresholds that select the products of these scenes.

    Of the `MIN_SCORES` whose F1 is at most one standard error below the highest (the
    one-standard-error rule of Breiman et al., 1984), the one nearest to the default: few scenes
    tell thresholds apart only roughly, and differ from customers' photos (ours).
    """
    every = max(len(scene.scores) for scene in proposals)
    tried = [BoxSelection(min_score, DEFAULT_NMS_IOU, every) for min_score in MIN_SCORES]
    values = [selection_figures(proposals, truth, selection)["f1"] for selection in tried]
    best = max(values)
    num_products = max(sum(map(len, truth)), 1)
    lowest = best - float(np.sqrt(best * (1 - best) / num_products))
    near = [selection for selection, value in zip(tried, values, strict=True) if value >= lowest]
    return min(near, key=lambda selection: abs(selection.min_score - DEFAULT_MIN_SCORE))


def measure(
    proposals: Sequence[ScoredBoxes], truth: Sequence[Boxes], selection: BoxSelection
) -> dict[str, float]:
    """Recall of the proposals, and precision and recall of the selected boxes.

    `selection` is the best one; the evaluation and a served model use it unless the configuration
    sets other thresholds. The evaluation measures its thresholds on the same scenes.
    """
    figures = selection_figures(proposals, truth, selection)
    return {
        **recalls([scene.boxes_xyxy for scene in proposals], truth),
        "instances/best_min_score": selection.min_score,
        "instances/best_nms_iou": selection.max_iou,
        "instances/best_f1": figures["f1"],
        "instances/precision": figures["precision"],
        "instances/recall": figures["recall"],
        "instances/found": figures["boxes_per_scene"],
        "instances/true": float(np.mean([len(boxes) for boxes in truth])),
    }


def selection_figures(
    proposals: Sequence[ScoredBoxes], truth: Sequence[Boxes], selection: BoxSelection
) -> dict[str, float]:
    """How well the selected boxes match the products, at IoU 0.5."""
    selected = [scene.select(selection).boxes_xyxy for scene in proposals]
    precision, share_found = precision_and_recall(selected, truth)
    return {
        "precision": precision,
        "recall": share_found,
        "f1": f1(precision, share_found),
        "boxes_per_scene": float(np.mean([len(boxes) for boxes in selected])),
    }


def f1(precision: float, share_found: float) -> float:
    """Harmonic mean of precision and recall; 0 if both are 0."""
    return 2 * precision * share_found / max(precision + share_found, 1e-9)
