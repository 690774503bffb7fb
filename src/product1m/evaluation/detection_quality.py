"""Compare the boxes found in photos with the products that are there: how many, and where."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from product1m.data.geometry import Boxes, match_boxes
from product1m.evaluation.statistics import BootstrapPlan, Interval, bootstrap_intervals

MATCH_IOU = 0.5
"""IoU from which a box counts as a product that is there."""
MANY = 8
"""Counts of this and more share a row or column of the table (ours)."""
FIGURES = {
    "error": "boxes found minus products labeled, mean",
    "absolute_error": "the same without sign, mean",
    "exact": "share of photos with as many boxes as products",
    "recall": f"share of a photo's products that a box covers with IoU {MATCH_IOU} or more",
    "precision": "share of a photo's boxes that cover a product in this way",
}


@dataclass(frozen=True)
class DetectionQuality:
    """How well the boxes of some queries fit the products."""

    counts: pd.DataFrame
    """Number of queries by products labeled (rows) and boxes found (columns)."""
    figures: Mapping[str, Interval]
    """The metrics of `FIGURES`; recall and precision only if the true boxes are known."""


def detection_quality(
    boxes_xyxy: Sequence[Boxes],
    num_labeled: Sequence[int],
    true_xyxy: Sequence[Boxes] | None,
    plan: BootstrapPlan,
) -> DetectionQuality:
    """Compare boxes with labels, query by query, and with true boxes if they are known.

    `boxes_xyxy` are those found, one array per query; all boxes are in pixels.
    """
    num_found = np.array([len(boxes) for boxes in boxes_xyxy])
    labeled = np.array(num_labeled)
    figures = pd.DataFrame(
        {
            "error": num_found - labeled,
            "absolute_error": np.abs(num_found - labeled),
            "exact": num_found == labeled,
        }
    )
    if true_xyxy is not None:
        matched = np.array(
            [
                match_boxes(boxes, true, MATCH_IOU)[1].sum()
                for boxes, true in zip(boxes_xyxy, true_xyxy, strict=True)
            ]
        )
        figures["recall"] = matched / np.array([len(true) for true in true_xyxy])
        figures["precision"] = matched / num_found
    counts = pd.crosstab(np.minimum(labeled, MANY), np.minimum(num_found, MANY))
    every = pd.RangeIndex(1, max(counts.index.max(), counts.columns.max()) + 1)
    counts = counts.reindex(index=every, columns=every, fill_value=0)
    return DetectionQuality(counts, bootstrap_intervals(figures.astype(float), plan))
