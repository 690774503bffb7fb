"""Fill the report with the results of an evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import pandas as pd

from product1m.config import EvaluationConfig
from product1m.data.items import ItemTable
from product1m.evaluation.detection_quality import DetectionQuality, products_at
from product1m.evaluation.match_scores import MatchQuality
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
    AnswerCard,
    BoxCard,
    ItemPhotos,
    QueryCard,
    ReportContent,
    choose_queries,
)
from product1m.evaluation.report.content import QUERY_SIDE_PX, Tag
from product1m.evaluation.results import BlockGain, MethodScores
from product1m.evaluation.slices import DEFINITIONS, slice_intervals
from product1m.evaluation.statistics import BootstrapPlan, Interval, bootstrap_intervals
from product1m.evaluation.variants import QueryVariants, TrueBoxes
from product1m.retrieval.match_score import MatchScorer
from product1m.retrieval.query_boxes import QueryBoxes
from product1m.retrieval.search import Searcher, SearchResult
from product1m.retrieval.shared_points import POINTS_WEIGHT, SharedPoints
from product1m.telemetry.progress import track

CURVE_DEPTHS = (1, 2, 5, 10, 20, 50, 100)
"""Depths of the report's curves (ours)."""
SHOWN_ANSWERS = 5
"""Number of answers shown for each box (ours)."""
SHOWN_HITS = 10
"""Number of ranks of the merged ranking that are marked right or wrong (ours)."""


@dataclass(frozen=True)
class Findings:
    """Everything an evaluation measured on the test queries."""

    queries: QueryVariants
    rankings: Mapping[str, Mapping[str, Sequence[str]]]
    """Method to query id to gallery ids, best first."""
    scores: pd.DataFrame
    """Both splits. Columns query_id, split, method, definition, depth, ap, recall, precision."""
    ap: pd.DataFrame
    """Strict AP@10: one row per query, one column per method."""
    intervals: Mapping[str, MethodScores]
    """Every metric with its interval, by method."""
    differences: Mapping[str, Interval]
    """Shipped minus method, strict mAP@10."""
    choice: Choice
    gains: Mapping[str, Sequence[BlockGain]]
    """What each block adds: leaving it out (`without`), adding it (`adding`)."""
    slices: pd.DataFrame
    """The slices each query is in, by query id."""
    detection: DetectionQuality
    match: MatchQuality | None
    """None if no match scores could be fitted."""
    latency: pd.DataFrame
    """Milliseconds per query: one row per stage, columns p50 and p95."""
    truth: GroundTruth
    true_boxes: TrueBoxes
    """Only where they are known."""

    @property
    def scorer(self) -> MatchScorer | None:
        """Gives answers their match scores; None if none could be fitted."""
        return self.match.scorer if self.match else None


@dataclass(frozen=True)
class ReportSettings:
    """What a report shows, and how its intervals are computed."""

    num_queries: int
    """Number of queries shown with pictures."""
    seed: int
    """Draws the queries that are neither the best nor the worst."""
    plan: BootstrapPlan
    encode_crops: bool
    """Whether `instance_crops` was asked for."""

    @classmethod
    def from_config(cls, config: EvaluationConfig) -> "ReportSettings":
        """The settings in a configuration section."""
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
    plan = settings.plan.for_labels(findings.truth.query_labels)
    return ReportContent(
        title="Product search: evaluation",
        facts=facts,
        shipped=SHIPPED,
        scores=findings.intervals,
        differences=findings.differences,
        curves=_curves(findings, searcher.settings.depth, plan),
        slices=_slices(findings, plan),
        fusion=shipped.shares,
        queries=_cards(findings, searcher, queries, gallery, settings),
        trials=shipped.trials,
        surface=findings.choice.surface,
        gains=findings.gains,
        detection=findings.detection,
        match=findings.match,
        latency=findings.latency,
        confidence=settings.plan.confidence,
        notes=_notes(findings, settings.encode_crops),
    )


def _curves(findings: Findings, max_depth: int, plan: BootstrapPlan) -> pd.DataFrame:
    """Strict means with intervals by depth, for the rankings that fit into one plot."""
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
            values = group.set_index("query_id")[["precision", "recall"]]
            intervals = bootstrap_intervals(values, plan)
            row: dict[str, str | int | float] = {"method": method, "depth": int(str(depth))}
            for name, interval in intervals.items():
                row |= {name: interval.mean}
                row |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
            rows.append(row)
    return pd.DataFrame(rows)


def _slices(findings: Findings, plan: BootstrapPlan) -> pd.DataFrame:
    """The shipped ranking in every slice, and its lead over image + text without CAPTURE."""
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
    places = {query: row for row, query in enumerate(findings.queries.detected.query_ids)}
    asked, items = ItemPhotos(queries), ItemPhotos(gallery)
    chosen = choose_queries(findings.ap[SHIPPED], settings.num_queries, settings.seed)
    return [
        _card(findings, searcher, places[query], tag, asked, items)
        for query, tag in track(chosen.items(), "drawing queries", len(chosen))
    ]


def _card(
    findings: Findings,
    searcher: Searcher,
    place: int,
    tag: Tag,
    queries: ItemPhotos,
    gallery: ItemPhotos,
) -> QueryCard:
    vectors = findings.queries.detected.select([place])
    query, boxes = vectors.query_ids[0], vectors.boxes[0]
    row, labels = queries.row(query), findings.truth.query_labels[query]
    weights = findings.choice.fusions[SHIPPED].weights
    depth = searcher.settings.depth
    answered = searcher.answer(
        vectors.box_vectors, boxes, weights, depth, findings.scorer, vectors.counting()
    )
    merged = findings.rankings[SHIPPED][query][:SHOWN_HITS]
    shared = _shared(findings, searcher, place, answered)
    return QueryCard(
        query_id=query,
        title=str(row["caption"]),
        labels=labels,
        photo=queries.thumbnail(query, QUERY_SIDE_PX),
        size_px=(int(row["width"]), int(row["height"])),
        boxes=_box_cards(findings, place, answered, shared, queries, gallery),
        ap=float(findings.ap[SHIPPED][query]),
        hits=[findings.truth.gallery_label[item] in labels for item in merged],
        tag=tag,
        slices={str(by): str(name) for by, name in findings.slices.loc[query].items()},
    )


def _shared(
    findings: Findings, searcher: Searcher, place: int, answered: SearchResult
) -> list[list[SharedPoints]]:
    """The points each box shares with its shown answers; empty if points have no weight."""
    queries = findings.queries.detected
    if not findings.choice.fusions[SHIPPED].weights.get(POINTS_WEIGHT) or queries.shared is None:
        return [[] for _ in answered.rankings]
    rankings = [ranking[:SHOWN_ANSWERS] for ranking in answered.rankings]
    matcher = searcher.matcher(queries.shared.points(queries.rows[place]), answered.boxes)
    return searcher.explain(replace(answered, rankings=rankings, matcher=matcher))


def _box_cards(
    findings: Findings,
    place: int,
    answered: SearchResult,
    shared: Sequence[Sequence[SharedPoints]],
    queries: ItemPhotos,
    gallery: ItemPhotos,
) -> list[BoxCard]:
    truth, boxes = findings.truth, answered.boxes
    query = findings.queries.detected.query_ids[place]
    labels = truth.query_labels[query]
    right = _labels_by_box(findings.true_boxes, place, boxes, labels)
    names = [[item for item, _ in ranking[:SHOWN_ANSWERS]] for ranking in answered.rankings]
    scores = answered.match_scores or [[] for _ in names]
    in_catalogue = answered.in_catalogue or [None for _ in names]
    return [
        BoxCard(
            tuple(box),
            score,
            [
                _answer(item, match, points, truth, labels, own, gallery)
                for item, match, points in zip_longest(items, matches[: len(items)], pairs)
            ],
            is_known,
            queries.box(query, tuple(box)) if pairs and len(pairs[0]) else None,
        )
        for box, score, own, items, matches, is_known, pairs in zip(
            boxes.boxes_xyxy.tolist(),
            boxes.scores.tolist(),
            right,
            names,
            scores,
            in_catalogue,
            shared,
            strict=True,
        )
        if boxes.num_shown
    ]


def _labels_by_box(
    known: TrueBoxes, place: int, boxes: QueryBoxes, labels: Sequence[str]
) -> list[Sequence[str]]:
    """Right labels of each box: of the products it lies on, or all of the photo if unknown."""
    true_labels = known.labels[place]
    if true_labels is None:
        return [labels] * len(boxes)
    return [products_at(box, known.boxes_xyxy[place], true_labels) for box in boxes.boxes_xyxy]


def _answer(
    item: str,
    score: float | None,
    points: SharedPoints | None,
    truth: GroundTruth,
    labels: Sequence[str],
    own_labels: Sequence[str],
    gallery: ItemPhotos,
) -> AnswerCard:
    """`labels` are the photo's, `own_labels` those that are right for the box."""
    label = truth.gallery_label[item]
    right = label in own_labels
    elsewhere = not right and label in labels
    return AnswerCard(
        item,
        label,
        gallery.thumbnail(item),
        score,
        right,
        elsewhere=elsewhere,
        shared=None if points is None else points.as_rows(),
        size_px=(1, 1) if points is None else points.item_size_px,
    )


def _notes(findings: Findings, encode_crops: bool) -> list[str]:
    missing, notes = findings.truth.missing_labels, []
    queries = findings.queries.detected.query_ids
    asking = [
        query
        for query in queries
        if not missing.keys().isdisjoint(findings.truth.query_labels[query])
    ]
    if asking:
        notes.append(
            f"{len(asking)} of {len(queries)} test queries ask for a label that no gallery item "
            "has: official scores them 0, strict ignores the label."
        )
    if not findings.queries.oracle_boxes:
        notes.append(
            f"Left out: {ORACLE_BOXES}, and recall and precision of the boxes. Both need the true "
            f"boxes of every test query; they are known for {findings.true_boxes.num_known} of "
            f"{len(queries)}."
        )
    if findings.true_boxes.num_labeled < len(queries):
        notes.append(
            "Left out: products found. They need the labels of the true boxes (box_labels) of "
            f"every test query, known for {findings.true_boxes.num_labeled} of {len(queries)}. "
            "Where they are unknown, an answer counts as right for every box of its photo."
        )
    if not findings.queries.instance_crops:
        reason = (
            "evaluation got no RPN to encode crops with"
            if encode_crops
            else "evaluation.encode_crops is false"
        )
        notes.append(f"Left out: {INSTANCE_CROPS}; {reason}.")
    if "named_in_train" not in findings.slices:
        notes.append(
            "Left out: slices by classes seen in training; ingestion did not count the training "
            "titles that name each class."
        )
    return notes
