"""Measure how well proposed boxes match the products of scenes; no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from product1m.data.geometry import Boxes, BoxSelection, select_boxes
from product1m.detection.recall import average_recall, precision_and_recall, recall

DEPTHS = (1, 10, 36, 100)
"""Numbers of proposals at which average recall is measured; feature extraction keeps 36."""

IMAGE_ONLY = "image_only/mAP@10"
IMAGE_ONLY_BEFORE = "image_only/mAP@10_before"
"""Metrics of a network whose backbone was trained: pasted products found by image alone."""
MIN_SCORES = (*(round(0.05 * step, 2) for step in range(2, 20)), 0.98, 0.99)
MAX_IOUS = (0.3, 0.4)
"""Thresholds of score and IoU that are tried for selecting products; scenes show more overlap than
customers' photos, for which 0.5 is too much (ours)."""


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
    """The thresholds among `MIN_SCORES` and `MAX_IOUS` that find the most products in these scenes.

    Only thresholds count whose F1 is at most one standard error below the highest (the
    one-standard-error rule of Breiman et al., 1984). Among these, recall decides, because a product
    without a box is never found.
    """
    every = max(len(scene.scores) for scene in proposals)
    figures: dict[BoxSelection, tuple[float, float]] = {}
    for max_iou in MAX_IOUS:
        # A box never suppresses one with a higher score, so one suppression serves all scores.
        lowest = BoxSelection(MIN_SCORES[0], max_iou, every)
        distinct = [scene.select(lowest) for scene in proposals]
        for min_score in MIN_SCORES:
            boxes = [scene.boxes_xyxy[scene.scores >= min_score] for scene in distinct]
            precision, share_found = precision_and_recall(boxes, truth)
            selection = BoxSelection(min_score, max_iou, every)
            figures[selection] = (share_found, f1(precision, share_found))
    best = max(value for _, value in figures.values())
    num_products = max(sum(map(len, truth)), 1)
    lowest_f1 = best - float(np.sqrt(best * (1 - best) / num_products))
    near = [selection for selection, (_, value) in figures.items() if value >= lowest_f1]
    return max(near, key=figures.__getitem__)


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
