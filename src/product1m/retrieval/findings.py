"""What an evaluation found, laid out for its report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from product1m.config import EvaluationConfig
from product1m.data.item_table import ItemTable
from product1m.progress import track
from product1m.retrieval.fusion import Fusion
from product1m.retrieval.methods import SHIPPED, WHOLE_PHOTO
from product1m.retrieval.metrics import DEFINITIONS, GroundTruth, score_queries
from product1m.retrieval.report import (
    InstanceCard,
    QueryCard,
    ReportContent,
    ResultCard,
    choose_queries,
    thumbnail,
)
from product1m.retrieval.report.content import QUERY_SIDE_PX, Scores, Tag
from product1m.retrieval.search import QueryVectors, Searcher
from product1m.retrieval.statistics import Interval, score_intervals, slice_intervals

CURVE_DEPTHS = (1, 2, 5, 10, 20, 50, 100)
"""Depths of the report's curves (ours)."""
SHOWN_RESULTS = 5
"""Gallery items shown for each instance (ours)."""
SHOWN_HITS = 10
"""Ranks of the merged ranking marked right or wrong (ours)."""


@dataclass(frozen=True)
class Findings:
    """The test queries, how every method ranked for them, and how well."""

    queries: QueryVectors
    rankings: Mapping[str, Mapping[str, Sequence[str]]]
    """Method, query id, gallery ids."""
    scores: pd.DataFrame
    """Columns query_id, method, definition, depth, ap, recall, precision."""
    slices: pd.DataFrame
    """Which slices a query belongs to, by query id."""
    differences: Mapping[str, Interval]
    """Shipped minus method, strict mAP@10."""
    fusion: Fusion
    truth: GroundTruth

    @property
    def shipped_ap(self) -> pd.Series:
        """Strict AP@10 of the shipped ranking by query id."""
        rows = self.scores.query(
            "method == @SHIPPED and definition == 'strict' and depth == 10",
            local_dict={"SHIPPED": SHIPPED},
        )
        return rows.set_index("query_id")["ap"]


def report_content(
    findings: Findings,
    searcher: Searcher,
    queries: ItemTable,
    gallery: ItemTable,
    facts: Mapping[str, str],
) -> ReportContent:
    """Fill the report, photos included."""
    config = searcher.config
    return ReportContent(
        title="Product search: evaluation",
        facts=facts,
        shipped=SHIPPED,
        scores=_intervals(findings, config),
        differences=findings.differences,
        curves=_curves(findings, config),
        slices=slice_intervals(findings.shipped_ap, findings.slices, config),
        fusion=findings.fusion.shares,
        queries=_cards(findings, searcher, queries, gallery),
        trials=findings.fusion.trials,
        confidence=config.confidence,
        notes=_notes(findings),
    )


def _intervals(findings: Findings, config: EvaluationConfig) -> dict[str, Scores]:
    by_method = dict(list(findings.scores.groupby(["method", "definition"], sort=False)))
    return {
        method: {
            definition: score_intervals(by_method[method, definition], config)
            for definition in DEFINITIONS
        }
        for method in findings.rankings
    }


def _curves(findings: Findings, config: EvaluationConfig) -> pd.DataFrame:
    """Strict means by depth; of the whole-photo rankings only the shipped one, to stay legible."""
    shown = [
        method
        for method in findings.rankings
        if not method.endswith(WHOLE_PHOTO) or method == SHIPPED + WHOLE_PHOTO
    ]
    depths = [depth for depth in CURVE_DEPTHS if depth <= config.depth]
    frames = [
        score_queries(findings.rankings[method], findings.truth, "strict", depths)
        .groupby("depth", as_index=False)[["precision", "recall"]]
        .mean()
        .assign(method=method)
        for method in shown
    ]
    return pd.concat(frames, ignore_index=True)


def _cards(
    findings: Findings, searcher: Searcher, queries: ItemTable, gallery: ItemTable
) -> list[QueryCard]:
    config = searcher.config
    places = {query: row for row, query in enumerate(findings.queries.query_ids)}
    photos = _Photos(queries), _Photos(gallery)
    chosen = choose_queries(findings.shipped_ap, config.num_report_queries, config.seed)
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
    query = findings.queries.query_ids[place]
    of_query = findings.queries.select([place])
    found, labels = of_query.found[0], findings.truth.query_labels[query]
    gallery_label = findings.truth.gallery_label
    rankings = searcher.rank_instances(of_query.instances, findings.fusion.weights, SHOWN_RESULTS)
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
        ap=float(findings.shipped_ap[query]),
        hits=[gallery_label[item] in labels for item in merged],
        tag=tag,
    )


def _result(
    found: tuple[str, float], truth: GroundTruth, labels: Sequence[str], gallery: "_Photos"
) -> ResultCard:
    item, score = found
    label = truth.gallery_label[item]
    return ResultCard(item, label, gallery.thumbnail(item), score, label in labels)


def _notes(findings: Findings) -> list[str]:
    missing, notes = findings.truth.missing_labels, []
    asking = [
        query
        for query in findings.queries.query_ids
        if not missing.keys().isdisjoint(findings.truth.query_labels[query])
    ]
    if asking:
        notes.append(
            f"{len(asking)} of {len(findings.queries.query_ids)} test queries ask for a label that "
            "no gallery item has: official scores them 0, strict leaves the label out."
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
