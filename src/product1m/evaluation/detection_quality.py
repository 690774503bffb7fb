"""How many instances are found in a photo against how many products there are, and where."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float32

from product1m.evaluation.statistics import BootstrapPlan, Interval, bootstrap_intervals
from product1m.retrieval.instances import pairwise_iou

MATCH_IOU = 0.5
"""Overlap from which an instance is a product that was there."""
MANY = 8
"""Counts from here on share a row or column of the table (ours)."""
FIGURES = {
    "error": "instances found minus products labelled, mean",
    "absolute_error": "the same without its sign, mean",
    "exact": "share of photos with as many instances as products",
    "recall": f"share of a photo's products that an instance overlaps by IoU {MATCH_IOU} or more",
    "precision": "share of a photo's instances that overlap a product so",
}
Boxes = Float32[np.ndarray, "K 4"]


@dataclass(frozen=True)
class DetectionQuality:
    """Over some queries."""

    counts: pd.DataFrame
    """Queries by products labelled (rows) and instances found (columns)."""
    figures: Mapping[str, Interval]
    """Of `FIGURES`; recall and precision only where the true boxes are known."""


def detection_quality(
    found: Sequence[Boxes],
    num_labelled: Sequence[int],
    boxes_xyxy: Sequence[Boxes] | None,
    plan: BootstrapPlan,
) -> DetectionQuality:
    """Compare instances with labels, query by query, and with true boxes where they are known."""
    num_found = np.array([len(boxes) for boxes in found])
    labelled = np.array(num_labelled)
    figures = pd.DataFrame(
        {
            "error": num_found - labelled,
            "absolute_error": np.abs(num_found - labelled),
            "exact": num_found == labelled,
        }
    )
    if boxes_xyxy is not None:
        matched = np.array(
            [num_matched(ours, true) for ours, true in zip(found, boxes_xyxy, strict=True)]
        )
        figures["recall"] = matched / np.array([len(true) for true in boxes_xyxy])
        figures["precision"] = matched / num_found
    counts = pd.crosstab(np.minimum(labelled, MANY), np.minimum(num_found, MANY))
    every = pd.RangeIndex(1, max(counts.index.max(), counts.columns.max()) + 1)
    counts = counts.reindex(index=every, columns=every, fill_value=0)
    return DetectionQuality(counts, bootstrap_intervals(figures.astype(float), plan))


def num_matched(found: Boxes, true: Boxes) -> int:
    """Pairs of an instance and a product, each in one pair at most, best overlaps first."""
    overlaps = pairwise_iou(found, true)
    matched = 0
    while overlaps.size and overlaps.max() >= MATCH_IOU:
        row, column = np.unravel_index(overlaps.argmax(), overlaps.shape)
        overlaps[row, :], overlaps[:, column] = -1, -1
        matched += 1
    return matched
