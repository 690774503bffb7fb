"""The content of a report: the evaluation step fills it in, and templates show it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from product1m.evaluation.detection_quality import DetectionQuality
from product1m.evaluation.fusion import Surface
from product1m.evaluation.match_scores import MatchQuality
from product1m.evaluation.metrics import Definition
from product1m.evaluation.report.cards import BoxCard
from product1m.evaluation.results import BlockGain
from product1m.evaluation.statistics import Interval

Tag = Literal["best", "worst", "random"]
TAGS: tuple[Tag, ...] = ("best", "worst", "random")

QUERY_SIDE_PX = 480
"""Longer side of a query photo in the report (ours)."""

Scores = Mapping[Definition, Mapping[str, Mapping[str, Interval]]]
"""Definition, depth, metric (`mAP`, `mAR`, `Prec`) to the mean with its interval."""


@dataclass(frozen=True)
class QueryCard:
    """A query with its photo, its boxes, and how well it was answered."""

    query_id: str
    title: str
    labels: Sequence[str]
    """As in the list, with repeats."""
    photo: bytes
    """JPEG, from `thumbnail`."""
    size_px: tuple[int, int]
    """Width and height of the stored photo, in whose pixels the boxes are."""
    boxes: Sequence[BoxCard]
    ap: float
    """Strict AP@10 of the shipped ranking."""
    hits: Sequence[bool]
    """Whether each of the first answers of the merged ranking is right."""
    tag: Tag
    slices: Mapping[str, str] = field(default_factory=dict)
    """This query's slice, by way of slicing."""


@dataclass(frozen=True)
class ReportContent:
    """Everything the report shows, about the test queries unless a name says dev."""

    title: str
    facts: Mapping[str, str]
    """Facts about the measurement: number of queries, gallery items, digests of the inputs, …"""
    shipped: str
    """Name of the method that ships."""
    scores: Mapping[str, Scores]
    """Scores by method, in the order of the tables."""
    differences: Mapping[str, Interval]
    """Shipped minus method, strict mAP@10, paired over the queries."""
    curves: pd.DataFrame
    """Columns method, depth, precision and recall (strict means), and the ends of their intervals
    with `_low` and `_high`."""
    slices: pd.DataFrame
    """Columns by, slice, num_queries, definition; mean, low and high of the shipped ranking's
    strict mAP@10; lead_mean, lead_low and lead_high of its paired difference to image + text."""
    fusion: Mapping[str, float]
    """Weight of each block, in units of the block's spread, chosen on the dev queries."""
    queries: Sequence[QueryCard]
    trials: pd.DataFrame | None = None
    """One row per tried fusion: each block's weight, and the dev strict mAP@10 as `dev_map`."""
    surface: Surface | None = None
    """The dev score over the weights of two blocks."""
    gains: Mapping[str, Sequence[BlockGain]] = field(default_factory=dict)
    """What each block adds on the test queries: left out (`without`), added (`adding`)."""
    detection: DetectionQuality | None = None
    match: MatchQuality | None = None
    latency: pd.DataFrame | None = None
    """Milliseconds per query: one row per stage, columns p50 and p95."""
    confidence: float = 0.95
    notes: Sequence[str] = field(default_factory=tuple)
    """Remarks that a reader must know to judge the numbers, for example on labels left out."""


def choose_queries(ap: pd.Series, count: int, seed: int) -> dict[str, Tag]:
    """Choose queries to show: one third the best, one third the worst, the rest at random.

    `ap` holds one value per query, indexed by query id; equal values keep the index's order.
    """
    count = min(count, len(ap))
    share = count // 3
    by_ap = ap.sort_values(ascending=False, kind="stable").index.to_list()
    best, others = by_ap[:share], by_ap[share:]
    others, worst = others[: len(others) - share], others[len(others) - share :]
    generator = np.random.default_rng(seed)
    drawn = generator.choice(len(others), count - 2 * share, replace=False)
    chosen: dict[str, Tag] = dict.fromkeys(best, "best")
    chosen |= dict.fromkeys(reversed(worst), "worst")
    return chosen | {others[position]: "random" for position in sorted(drawn.tolist())}
