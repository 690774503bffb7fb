"""What a report shows: the evaluation step fills this, the template lays it out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from product1m.data.photos import Photo, encode_jpeg, resize_photo
from product1m.evaluation.detection_quality import DetectionQuality
from product1m.evaluation.fusion import Surface
from product1m.evaluation.metrics import Definition
from product1m.evaluation.results import BlockGain
from product1m.evaluation.statistics import Interval

Tag = Literal["best", "worst", "random"]
TAGS: tuple[Tag, ...] = ("best", "worst", "random")

QUERY_SIDE_PX = 480
"""Longer side of a query photo in the report (ours)."""
RESULT_SIDE_PX = 112
"""Longer side of a result's photo in the report (ours)."""

Scores = Mapping[Definition, Mapping[str, Mapping[str, Interval]]]
"""Definition, depth, metric (`mAP`, `mAR`, `Prec`) to the mean with its interval."""


@dataclass(frozen=True)
class ResultCard:
    """A gallery item one instance retrieved."""

    id: str
    label: str
    photo: bytes
    """JPEG, from `thumbnail`."""
    score: float
    relevant: bool


@dataclass(frozen=True)
class InstanceCard:
    """A product found in a query photo, and the head of its own ranking."""

    box_xyxy: tuple[float, float, float, float]
    """Pixels of the stored photo, whose size the query's card gives."""
    score: float
    """Objectness."""
    results: Sequence[ResultCard]


@dataclass(frozen=True)
class QueryCard:
    """A query with its photo, its instances, and how well it was answered."""

    query_id: str
    title: str
    labels: Sequence[str]
    """With repeats, as the list has them."""
    photo: bytes
    """JPEG, from `thumbnail`."""
    size_px: tuple[int, int]
    """Width and height of the stored photo: the frame of the instances' boxes."""
    instances: Sequence[InstanceCard]
    ap: float
    """Strict AP@10 of the shipped ranking."""
    hits: Sequence[bool]
    """Right or wrong, rank by rank, at the head of the merged ranking."""
    tag: Tag
    slices: Mapping[str, str] = field(default_factory=dict)
    """Slicing to slice."""


@dataclass(frozen=True)
class ReportContent:
    """Everything the report shows; test queries unless a name says dev."""

    title: str
    facts: Mapping[str, str]
    """What was measured on what: number of queries, gallery items, model, seed, …"""
    shipped: str
    """Name of the method that ships."""
    scores: Mapping[str, Scores]
    """By method, in the order of the tables."""
    differences: Mapping[str, Interval]
    """Shipped minus method, strict mAP@10, paired over the queries."""
    curves: pd.DataFrame
    """Columns method, depth, precision, recall: strict means; `_low`, `_high`: their intervals."""
    slices: pd.DataFrame
    """Columns by, slice, num_queries, definition; mean, low, high: shipped, strict mAP@10;
    lead_mean, lead_low, lead_high: shipped minus image + text without CAPTURE, paired."""
    fusion: Mapping[str, float]
    """Block to weight, in units of the block's spread, chosen on the dev queries."""
    queries: Sequence[QueryCard]
    trials: pd.DataFrame | None = None
    """One row a tried fusion: a column a block with its weight, `dev_map` the dev strict mAP@10."""
    surface: Surface | None = None
    """The dev score over the weights of two blocks."""
    gains: Mapping[str, Sequence[BlockGain]] = field(default_factory=dict)
    """What each block gives on the test queries: `without` it, and `adding` it."""
    detection: DetectionQuality | None = None
    latency: pd.DataFrame | None = None
    """Milliseconds a query: a row a stage, columns p50 and p95."""
    confidence: float = 0.95
    notes: Sequence[str] = field(default_factory=tuple)
    """What a reader must know before trusting the numbers: labels left out, sample data, …"""


def thumbnail(photo: Photo, side_px: int = RESULT_SIDE_PX, quality: int = 78) -> bytes:
    """A photo as a JPEG whose longer side is at most `side_px`."""
    scale = side_px / max(photo.shape[:2])
    return encode_jpeg(resize_photo(photo, scale) if scale < 1 else photo, quality)


def choose_queries(ap: pd.Series, count: int, seed: int) -> dict[str, Tag]:
    """The queries to show: a third the best, a third the worst, the rest drawn from the others.

    `ap` holds one value a query, indexed by query id; equal values stand in the index's order.
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
