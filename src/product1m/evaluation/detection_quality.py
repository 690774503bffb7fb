"""How many instances are found in a photo against how many products there are, and where."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from product1m.data.geometry import Boxes, match_boxes
from product1m.evaluation.statistics import BootstrapPlan, Interval, bootstrap_intervals

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
            [
                match_boxes(ours, true, MATCH_IOU)[1].sum()
                for ours, true in zip(found, boxes_xyxy, strict=True)
            ]
        )
        figures["recall"] = matched / np.array([len(true) for true in boxes_xyxy])
        figures["precision"] = matched / num_found
    counts = pd.crosstab(np.minimum(labelled, MANY), np.minimum(num_found, MANY))
    every = pd.RangeIndex(1, max(counts.index.max(), counts.columns.max()) + 1)
    counts = counts.reindex(index=every, columns=every, fill_value=0)
    return DetectionQuality(counts, bootstrap_intervals(figures.astype(float), plan))
