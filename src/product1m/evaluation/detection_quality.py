"""Compare the boxes shown in photos with the products in them: number, place and product.

A product is *found* if a shown box lies on it (IoU 0.5 or more) and has it among its first answers.
Users see exactly that, so it is reported beside the scores of the merged ranking.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32

from product1m.data.geometry import Boxes, match_boxes, pairwise_iou
from product1m.evaluation.statistics import (
    BootstrapPlan,
    Interval,
    bootstrap_intervals,
    bootstrap_ratios,
)

MATCH_IOU = 0.5
"""Smallest IoU at which a box counts as lying on a product."""
FOUND_DEPTHS = (1, 5)
"""A product counts as found if it is among this many first answers of its box (ours)."""
MANY = 8
"""Counts of at least this share a row or column of the table (ours)."""
FOUND = "products_found@{}"
PRODUCTS_FOUND, BOX_PRECISION, BOX_RECALL = FOUND.format(1), "precision", "recall"
PRODUCTS, SHOWN, COVERED = "products", "boxes", "covered"
"""Columns of the counts per query: products in the photo, boxes shown, products with a box of their
own. One more column for each of `FOUND_DEPTHS` counts the products found."""
FIGURES = {
    FOUND.format(
        1
    ): f"share of all products with a box (IoU {MATCH_IOU}) whose first answer is right",
    FOUND.format(5): "the same with a right answer among the box's first 5",
    BOX_RECALL: f"share of all products with a box (IoU {MATCH_IOU})",
    BOX_PRECISION: "share of all boxes that lie on a product in this way, one box for each product",
    "error": "boxes found minus products labeled, mean over the photos",
    "absolute_error": "the same without sign, mean over the photos",
    "exact": "share of photos with as many boxes as products",
}
SHARES = (*map(FOUND.format, FOUND_DEPTHS), BOX_PRECISION, BOX_RECALL)
"""The figures that need true boxes, most important first."""
NEEDED = "needs the data set's boxes, with box_labels for products found"
_RATIOS = {
    **{FOUND.format(depth): (FOUND.format(depth), PRODUCTS) for depth in FOUND_DEPTHS},
    BOX_RECALL: (COVERED, PRODUCTS),
    BOX_PRECISION: (COVERED, SHOWN),
}


@dataclass(frozen=True)
class PhotoBoxes:
    """The boxes shown in one photo, and its products; boxes in pixels."""

    shown_xyxy: Boxes
    answers: Sequence[Sequence[str]]
    """Labels of each shown box's answers, best first."""
    num_labeled: int
    """Products in the photo by its labels."""
    true_xyxy: Boxes | None = None
    """None if the data set has no true boxes."""
    true_labels: Sequence[str] | None = None
    """Label of each true box; None if the data set has none."""


@dataclass(frozen=True)
class DetectionQuality:
    """How well the boxes of some queries fit the products."""

    counts: pd.DataFrame
    """Number of queries by products labeled (rows) and boxes found (columns)."""
    figures: Mapping[str, Interval]
    """The metrics of `FIGURES`; recall and precision only if all true boxes are known, products
    found only if their labels are known too."""
    per_query: pd.DataFrame = field(default_factory=pd.DataFrame)
    """The counts behind the shares, one row per query; no columns if nothing is known."""


def detection_quality(
    query_ids: Sequence[str], photos: Sequence[PhotoBoxes], plan: BootstrapPlan
) -> DetectionQuality:
    """Compare shown boxes with labels, and with true boxes if they are known for every photo.

    Shares are of all products or boxes together; `plan` defines the resamples for intervals.
    """
    num_found = np.array([len(photo.shown_xyxy) for photo in photos])
    labeled = np.array([photo.num_labeled for photo in photos])
    means = pd.DataFrame(
        {
            "error": num_found - labeled,
            "absolute_error": np.abs(num_found - labeled),
            "exact": num_found == labeled,
        },
        index=pd.Index(query_ids),
    )
    per_query = _counts(photos).set_index(means.index)
    known = {name: ratio for name, ratio in _RATIOS.items() if ratio[0] in per_query}
    figures = bootstrap_ratios(per_query, known, plan) if known else {}
    figures |= bootstrap_intervals(means.astype(float), plan)
    table = pd.crosstab(np.minimum(labeled, MANY), np.minimum(num_found, MANY))
    first = min(1, table.index.min(), table.columns.min())
    every = pd.RangeIndex(first, max(table.index.max(), table.columns.max()) + 1)
    table = table.reindex(index=every, columns=every, fill_value=0)
    return DetectionQuality(table, figures, per_query)


def found_products(photo: PhotoBoxes, depth: int) -> Bool[np.ndarray, " K"]:
    """True for each true product that a shown box lies on and has among its first `depth` answers.

    The labels of the true boxes must be known.
    """
    if photo.true_xyxy is None or photo.true_labels is None:
        raise ValueError("products are found only in photos whose true boxes have labels")
    lies_on = pairwise_iou(photo.shown_xyxy, photo.true_xyxy) >= MATCH_IOU
    names = np.array(
        [[label in answers[:depth] for label in photo.true_labels] for answers in photo.answers],
        bool,
    ).reshape(lies_on.shape)
    return np.asarray((lies_on & names).any(axis=0))


def products_at(
    box_xyxy: Float32[np.ndarray, "4"], true_xyxy: Boxes, true_labels: Sequence[str]
) -> list[str]:
    """Labels of the true products that a box lies on."""
    (overlaps,) = pairwise_iou(box_xyxy[None], true_xyxy)
    return [true_labels[place] for place in np.flatnonzero(overlaps >= MATCH_IOU).tolist()]


def _counts(photos: Sequence[PhotoBoxes]) -> pd.DataFrame:
    table = pd.DataFrame(index=range(len(photos)))
    if any(photo.true_xyxy is None for photo in photos):
        return table
    true = [photo.true_xyxy for photo in photos if photo.true_xyxy is not None]
    table[PRODUCTS] = [len(boxes) for boxes in true]
    table[SHOWN] = [len(photo.shown_xyxy) for photo in photos]
    table[COVERED] = [
        match_boxes(photo.shown_xyxy, boxes, MATCH_IOU)[1].sum()
        for photo, boxes in zip(photos, true, strict=True)
    ]
    if all(photo.true_labels is not None for photo in photos):
        for depth in FOUND_DEPTHS:
            table[FOUND.format(depth)] = [found_products(photo, depth).sum() for photo in photos]
    return table
