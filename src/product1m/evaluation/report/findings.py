"""What an evaluation found, laid out for its report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from product1m.config import EvaluationConfig
from product1m.data.items import ItemTable
from product1m.evaluation.detection_quality import DetectionQuality
from product1m.evaluation.methods import (
    IMAGE_TEXT,
    INSTANCE_CROPS,
    MERGE_PREFIX,
    ORACLE_BOXES,
    SHIPPED,
    WHOLE_PHOTO,
)
from product1m.evaluation.metrics import GroundTruth, score_queries
from product1m.evaluation.ranking import Choice
from product1m.evaluation.report import (
    InstanceCard,
    QueryCard,
    ReportContent,
    ResultCard,
    choose_queries,
    thumbnail,
)
from product1m.evaluation.report.content import QUERY_SIDE_PX, Tag
from product1m.evaluation.results import BlockGain, MethodScores
from product1m.evaluation.slices import DEFINITIONS, slice_intervals
from product1m.evaluation.statistics import BootstrapPlan, Interval, bootstrap_intervals
from product1m.evaluation.variants import QueryViews
from product1m.retrieval.search import Searcher
from product1m.telemetry.progress import track

CURVE_DEPTHS = (1, 2, 5, 10, 20, 50, 100)
"""Depths of the report's curves (ours)."""
SHOWN_RESULTS = 5
"""Gallery items shown for each instance (ours)."""
SHOWN_HITS = 10
"""Ranks of the merged ranking marked right or wrong (ours)."""


@dataclass(frozen=True)
class Findings:
    """The test queries, how every method ranked for them, and how well."""

    views: QueryViews
    rankings: Mapping[str, Mapping[str, Sequence[str]]]
    """Method, query id, gallery ids."""
    scores: pd.DataFrame
    """Of both splits. Columns query_id, split, method, definition, depth, ap, recall, precision."""
    ap: pd.DataFrame
    """Strict AP@10: a row a query, a column a method."""
    intervals: Mapping[str, MethodScores]
    """Of every figure, by method."""
    differences: Mapping[str, Interval]
    """Shipped minus method, strict mAP@10."""
    choice: Choice
    gains: Mapping[str, Sequence[BlockGain]]
    """What each block gives: `without` it, and `adding` it."""
    slices: pd.DataFrame
    """Which slices a query belongs to, by query id."""
    detection: DetectionQuality
    latency: pd.DataFrame
    """Milliseconds a query: a row a stage, columns p50 and p95."""
    truth: GroundTruth
    num_with_boxes: int
    """Queries whose true boxes are known."""


@dataclass(frozen=True)
class ReportSettings:
    """What a report shows, and how its intervals are computed."""

    num_queries: int
    """Queries shown with pictures."""
    seed: int
    """Draws the queries that are neither the best nor the worst."""
    plan: BootstrapPlan
    encode_crops: bool
    """Whether `instance_crops` was asked for."""

    @classmethod
    def from_config(cls, config: EvaluationConfig) -> "ReportSettings":
        """The values of a configuration."""
        plan = BootstrapPlan.from_config(config)
        return cls(config.num_report_queries, config.seed, plan, config.encode_crops)


def report_content(
    findings: Findings,
    searcher: Searcher,
    queries: ItemTable,
    gallery: ItemTable,
    facts: Mapping[str, str],
    settings: ReportSettings,
) -> ReportContent:
    """Fill the report, photos included."""
    shipped = findings.choice.fusions[SHIPPED]
    return ReportContent(
        title="Product search: evaluation",
        facts=facts,
        shipped=SHIPPED,
        scores=findings.intervals,
        differences=findings.differences,
        curves=_curves(findings, searcher.settings.depth, settings.plan),
        slices=_slices(findings, settings.plan),
        fusion=shipped.shares,
        queries=_cards(findings, searcher, queries, gallery, settings),
        trials=shipped.trials,
        surface=findings.choice.surface,
        gains=findings.gains,
        detection=findings.detection,
        latency=findings.latency,
        confidence=settings.plan.confidence,
        notes=_notes(findings, settings.encode_crops),
    )


def _curves(findings: Findings, max_depth: int, plan: BootstrapPlan) -> pd.DataFrame:
    """Strict means with intervals by depth; of the variants only the whole photo."""
    left_out = (ORACLE_BOXES, INSTANCE_CROPS)
    shown = [
        method
        for method in findings.rankings
        if (not method.endswith(WHOLE_PHOTO) or method == SHIPPED + WHOLE_PHOTO)
        and not method.startswith(MERGE_PREFIX)
        and method not in left_out
    ]
    depths = [depth for depth in CURVE_DEPTHS if depth <= max_depth]
    rows = []
    for method in shown:
        scores = score_queries(findings.rankings[method], findings.truth, "strict", depths)
        for depth, group in scores.groupby("depth"):
            found = bootstrap_intervals(group[["precision", "recall"]], plan)
            row: dict[str, str | int | float] = {"method": method, "depth": int(str(depth))}
            for name, interval in found.items():
                row |= {name: interval.mean}
                row |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
            rows.append(row)
    return pd.DataFrame(rows)


def _slices(findings: Findings, plan: BootstrapPlan) -> pd.DataFrame:
    """The shipped ranking in every slice, and its lead over the best ranking without CAPTURE."""
    ap = findings.ap
    scores = slice_intervals(ap[SHIPPED], findings.slices, plan)
    leads = slice_intervals(ap[SHIPPED] - ap[IMAGE_TEXT], findings.slices, plan)
    for end in ("mean", "low", "high"):
        scores[f"lead_{end}"] = leads[end]
    return scores.assign(definition=scores["by"].map(DEFINITIONS))


def _cards(
    findings: Findings,
    searcher: Searcher,
    queries: ItemTable,
    gallery: ItemTable,
    settings: ReportSettings,
) -> list[QueryCard]:
    places = {query: row for row, query in enumerate(findings.views.found.query_ids)}
    photos = _Photos(queries), _Photos(gallery)
    chosen = choose_queries(findings.ap[SHIPPED], settings.num_queries, settings.seed)
    return [
        _card(findings, searcher, places[query], tag, photos)
        for query, tag in track(chosen.items(), "drawing queries", len(chosen))
    ]


def _card(
    findings: Findings,
    searcher: Searcher,
    place: int,
    tag: Tag,
    photos: "tuple[_Photos, _Photos]",
) -> QueryCard:
    of_query = findings.views.found.select([place])
    query = of_query.query_ids[0]
    found, labels = of_query.found[0], findings.truth.query_labels[query]
    gallery_label = findings.truth.gallery_label
    weights = findings.choice.fusions[SHIPPED].weights
    rankings = searcher.rank_instances(of_query.instances, weights, SHOWN_RESULTS)
    merged = findings.rankings[SHIPPED][query][:SHOWN_HITS]
    boxes, scores = found.boxes_xyxy.tolist(), found.scores.tolist()
    return QueryCard(
        query_id=query,
        title=photos[0].caption(query),
        labels=labels,
        photo=photos[0].thumbnail(query, QUERY_SIDE_PX),
        size_px=photos[0].size_px(query),
        instances=[
            InstanceCard(
                tuple(box),
                score,
                [_result(pair, findings.truth, labels, photos[1]) for pair in ranking],
            )
            for box, score, ranking in zip(boxes, scores, rankings, strict=True)
        ],
        ap=float(findings.ap[SHIPPED][query]),
        hits=[gallery_label[item] in labels for item in merged],
        tag=tag,
        slices={str(by): str(name) for by, name in findings.slices.loc[query].items()},
    )


def _result(
    found: tuple[str, float], truth: GroundTruth, labels: Sequence[str], gallery: "_Photos"
) -> ResultCard:
    item, score = found
    label = truth.gallery_label[item]
    return ResultCard(item, label, gallery.thumbnail(item), score, label in labels)


def _notes(findings: Findings, encode_crops: bool) -> list[str]:
    missing, notes = findings.truth.missing_labels, []
    queries = findings.views.found.query_ids
    asking = [
        query
        for query in queries
        if not missing.keys().isdisjoint(findings.truth.query_labels[query])
    ]
    if asking:
        notes.append(
            f"{len(asking)} of {len(queries)} test queries ask for a label that "
            "no gallery item has: official scores them 0, strict leaves the label out."
        )
    if not findings.views.oracle_boxes:
        notes.append(
            f"Left out: {ORACLE_BOXES}, and recall and precision of the instances. The true boxes "
            f"of {findings.num_with_boxes} of {len(queries)} test queries are known; both need "
            "those of every query."
        )
    if not findings.views.instance_crops:
        reason = (
            "no RPN was given to encode them with"
            if encode_crops
            else "evaluation.encode_crops is off"
        )
        notes.append(f"Left out: {INSTANCE_CROPS}; {reason}.")
    if "named_in_train" not in findings.slices:
        notes.append(
            "Left out: slices by classes seen in training; ingestion has not counted the training "
            "titles that name each class."
        )
    return notes


class _Photos:
    """Photos and captions of an item table by id."""

    def __init__(self, items: ItemTable) -> None:
        self._items = items
        self._positions = {item: position for position, item in enumerate(items.rows["id"])}

    def caption(self, item: str) -> str:
        return str(self._items.rows["caption"].iloc[self._positions[item]])

    def size_px(self, item: str) -> tuple[int, int]:
        row = self._items.rows.iloc[self._positions[item]]
        return int(row["width"]), int(row["height"])

    def thumbnail(self, item: str, side_px: int | None = None) -> bytes:
        photo = self._items.photo(self._positions[item])
        return thumbnail(photo, side_px) if side_px else thumbnail(photo)
