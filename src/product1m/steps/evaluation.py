"""Rank the gallery for the boxes of every query, measure the rankings, write the report."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from product1m.artifacts.folder import Artifact, ArtifactWriter, open_artifact
from product1m.artifacts.lineage import require_descends, require_same_rpn
from product1m.config import EvaluationConfig
from product1m.data.class_names import read_train_titles
from product1m.data.geometry import BoxSelection
from product1m.data.items import ItemTable
from product1m.data.regions import FeatureSet
from product1m.detection.held_out_boxes import read_held_out_boxes
from product1m.detection.measuring import selection_figures
from product1m.errors import RetrievalError
from product1m.evaluation.artifact_files import (
    FUSION,
    FUSION_TRIALS,
    LATENCY,
    MATCH_SCORE,
    METRICS_FILE,
    PER_QUERY,
    PRODUCTS_PER_QUERY,
    QUERY_BOXES,
    REPORT,
    SLICES,
    rankings_of,
    write_json,
    write_table,
)
from product1m.evaluation.box_products import box_products
from product1m.evaluation.detection_quality import detection_quality
from product1m.evaluation.examples import write_examples
from product1m.evaluation.fusion import FusionSettings
from product1m.evaluation.index_recall import SEARCHED_RECALL, searched_recall
from product1m.evaluation.latency import measure_latency
from product1m.evaluation.match_scores import MatchQuality, MatchSettings, measure_match_scores
from product1m.evaluation.methods import SHIPPED
from product1m.evaluation.metrics import GroundTruth
from product1m.evaluation.ranking import Choice, choose_fusions, rank_all
from product1m.evaluation.report import write_report
from product1m.evaluation.report.findings import Findings, ReportSettings, report_content
from product1m.evaluation.results import (
    RankingsByMethod,
    all_intervals,
    ap_by_method,
    differences,
    figures,
    gains_of_blocks,
    mean_tables,
    score_methods,
)
from product1m.evaluation.scoring import write_rankings
from product1m.evaluation.shown_boxes import box_table, shown_boxes
from product1m.evaluation.slices import slices_of
from product1m.evaluation.statistics import MAIN_DEPTH, BootstrapPlan, Interval, with_groups
from product1m.evaluation.variants import (
    QueryVariants,
    TrueBoxes,
    embed_queries,
    true_boxes,
    with_crops,
)
from product1m.retrieval.crop_block import require_same_encoder
from product1m.retrieval.search import Searcher, SearchSettings
from product1m.steps.bracket import open_step

SPLITS = ("dev", "test")


def run(
    query_features: Path,
    capture: Path,
    index: Path,
    queries: Path,
    gallery: Path,
    evaluation: Path,
    config: EvaluationConfig,
    rpn: Path | None = None,
) -> dict[str, float]:
    """Choose the fusion on the dev queries, rank for every method, score, and write the report.

    Crops are encoded for test queries only, because nothing is chosen by them, and only if the RPN
    is given. Raises ArtifactError if the inputs come from different models, and RetrievalError with
    the query's id if a query cannot be answered.
    """
    with open_step("evaluation", config, evaluation) as step:
        inputs = step.read(_open(query_features, capture, index, queries, gallery, rpn))
        prepared = _prepare(inputs, config)
        searcher, truth = prepared.searcher, prepared.truth
        choice = choose_fusions(
            searcher, prepared.variants["dev"].detected, truth, FusionSettings.from_config(config)
        )
        ranked = {
            split: rank_all(
                searcher,
                variants,
                choice.fusions,
                prepared.variants["dev"].detected,
                truth,
                config.seed,
            )
            for split, variants in prepared.variants.items()
        }
        findings = _measure(prepared, choice, ranked, config)
        _write(step.writer, inputs, prepared, findings, ranked, config)
        step.attach(REPORT, *sorted(path.name for path in step.folder.glob("*.png")))
    return step.all_metrics()


@dataclass(frozen=True)
class _Queries:
    """The queries in every variant, and their ground truth."""

    features: FeatureSet
    searcher: Searcher
    truth: GroundTruth
    boxes: TrueBoxes
    variants: dict[str, QueryVariants]
    """Variants by split."""
    rows: dict[str, list[int]]
    """Rows of the feature set, by split."""
    train_titles: dict[str, int] | None
    """Number of training titles that name each class; None if ingestion did not count them."""


def _open(
    query_features: Path, capture: Path, index: Path, queries: Path, gallery: Path, rpn: Path | None
) -> dict[str, Artifact]:
    inputs = {
        "query_features": open_artifact(query_features, "feature_extraction", "queries"),
        "capture": open_artifact(capture, "capture_pretraining"),
        "index": open_artifact(index, "indexing"),
        "queries": open_artifact(queries, "ingestion", "queries"),
        "gallery": open_artifact(gallery, "ingestion", "gallery"),
    }
    require_same_rpn(inputs["query_features"], inputs["index"])
    require_same_encoder(inputs["query_features"], inputs["index"])
    require_descends(inputs["query_features"], inputs["queries"])
    require_descends(inputs["index"], inputs["gallery"])
    if rpn is not None:
        inputs["rpn"] = open_artifact(rpn, "rpn_training")
        require_descends(inputs["query_features"], inputs["rpn"])
    return inputs


def _prepare(inputs: Mapping[str, Artifact], config: EvaluationConfig) -> _Queries:
    features = FeatureSet(inputs["query_features"])
    settings = SearchSettings.from_config(config, inputs["query_features"])
    searcher = Searcher.load(inputs["index"], inputs["capture"], settings)
    truth, boxes = _truth(features, searcher), true_boxes(features)
    rows = _rows_by_split(features)
    every = embed_queries(searcher, features, boxes)
    variants = {split: every.select(chosen) for split, chosen in rows.items()}
    if config.encode_crops and "rpn" in inputs:
        photos, test = ItemTable(inputs["queries"]), rows["test"]
        variants["test"] = with_crops(
            variants["test"], searcher, features, test, photos, inputs["rpn"]
        )
    titles = read_train_titles(inputs["queries"])
    return _Queries(features, searcher, truth, boxes, variants, rows, titles)


def _measure(
    prepared: _Queries,
    choice: Choice,
    ranked: Mapping[str, RankingsByMethod],
    config: EvaluationConfig,
) -> Findings:
    """Measure every ranking on the test queries."""
    searcher, truth = prepared.searcher, prepared.truth
    plan = BootstrapPlan.from_config(config).for_labels(truth.query_labels)
    rows, queries = prepared.rows["test"], prepared.variants["test"]
    weights = choice.fusions[SHIPPED].weights
    boxes, all_known = prepared.boxes.select(rows), prepared.boxes.complete
    shown = shown_boxes(searcher, queries.detected, weights, truth, boxes, all_known)
    scores = with_groups(score_methods(ranked, truth), plan)
    test_scores = scores[scores["split"] == "test"]
    ap = ap_by_method(test_scores)
    match = _match_scores(prepared, weights, MatchSettings.from_config(config), plan)
    return Findings(
        queries=queries,
        rankings=ranked["test"],
        scores=scores,
        ap=ap,
        intervals=all_intervals(test_scores, plan),
        differences=differences(ap, plan),
        choice=choice,
        gains=gains_of_blocks(searcher, queries, choice, truth, ap[SHIPPED], plan),
        slices=slices_of(
            {query: truth.query_labels[query] for query in queries.detected.query_ids},
            truth.gallery_label.values(),
            prepared.train_titles,
            [truth.query_labels[query] for query in prepared.variants["dev"].detected.query_ids],
        ),
        detection=detection_quality(queries.detected.query_ids, shown, plan),
        match=match,
        latency=_latency(prepared, weights, match, config.num_timed_queries),
        truth=truth,
        true_boxes=boxes,
    )


def _latency(
    prepared: _Queries, weights: Mapping[str, float], match: MatchQuality | None, num_timed: int
) -> pd.DataFrame:
    scorer = match.scorer if match else None
    searcher, rows = prepared.searcher, prepared.rows["test"]
    return measure_latency(searcher, prepared.features, rows, weights, num_timed, scorer)


def _match_scores(
    prepared: _Queries, weights: Mapping[str, float], settings: MatchSettings, plan: BootstrapPlan
) -> MatchQuality | None:
    """Fit match scores on the dev queries, measure them on the test queries."""
    dev, test = (
        (queries, box_products(queries, prepared.boxes.select(rows), prepared.truth))
        for split, rows in prepared.rows.items()
        for queries in [prepared.variants[split].detected]
    )
    return measure_match_scores(prepared.searcher, weights, dev, test, settings, plan)


def _on_held_out_scenes(rpn: Artifact, selection: BoxSelection) -> dict[str, float]:
    """How well the thresholds of this step select the boxes of the scenes held out by synthesis."""
    boxes = read_held_out_boxes(rpn)
    figures = selection_figures(boxes.proposals, boxes.truth, selection)
    return {f"held_out_scenes/{name}": value for name, value in figures.items()}


def _write(
    writer: ArtifactWriter,
    inputs: Mapping[str, Artifact],
    prepared: _Queries,
    findings: Findings,
    ranked: Mapping[str, RankingsByMethod],
    config: EvaluationConfig,
) -> None:
    metrics = _metrics(findings)
    writer.metrics.update(_flat(metrics) | _counts(prepared) | _detection_and_latency(findings))
    if "rpn" in inputs:
        writer.metrics.update(_on_held_out_scenes(inputs["rpn"], prepared.searcher.settings.boxes))
    weights = findings.choice.fusions[SHIPPED].weights
    asked = findings.queries.detected.box_vectors
    writer.metrics[SEARCHED_RECALL] = searched_recall(prepared.searcher, asked, weights)
    queries, gallery = ItemTable(inputs["queries"]), ItemTable(inputs["gallery"])
    facts, settings = _facts(inputs, writer.metrics), ReportSettings.from_config(config)
    content = report_content(findings, prepared.searcher, queries, gallery, facts, settings)
    write_report(content, writer.folder / REPORT)
    _write_tables(writer, metrics, findings)
    for split in SPLITS:
        write_rankings(writer.folder / rankings_of(split), ranked[split][SHIPPED])
    write_examples(writer.folder, prepared.features, queries, ranked["test"][SHIPPED])


def _truth(features: FeatureSet, searcher: Searcher) -> GroundTruth:
    rows = searcher.gallery.rows
    unlabeled = rows.loc[[not labels for labels in rows["labels"]], "id"].tolist()
    if unlabeled:
        raise RetrievalError(
            f"gallery item {unlabeled[0]} and {len(unlabeled) - 1} more have no label; evaluation "
            "needs one label per gallery item"
        )
    return GroundTruth.from_rows(features.rows, rows)


def _rows_by_split(features: FeatureSet) -> dict[str, list[int]]:
    splits = features.rows["split"]
    rows = {split: np.flatnonzero(splits == split).tolist() for split in SPLITS}
    for split, chosen in rows.items():
        if not chosen:
            raise RetrievalError(
                f"{features.artifact.folder}: no {split} queries among {len(splits)}; the weights "
                "are chosen on dev queries and measured on test queries, so both are needed: run "
                "ingestion with a dev_share between 0 and 1"
            )
    return rows


def _metrics(findings: Findings) -> dict[str, Any]:
    """The content of `metrics.json`."""
    means = mean_tables(findings.scores)
    return {
        **{split: means[split] for split in SPLITS},
        "differences": _plain(findings.differences),
        "intervals": _plain(
            {
                name: tables["strict"][str(MAIN_DEPTH)]["mAP"]
                for name, tables in findings.intervals.items()
            }
        ),
        "test_intervals": _plain(findings.intervals),
        "blocks": {
            kind: [asdict(gain) for gain in gains] for kind, gains in findings.gains.items()
        },
        "detection": _plain(findings.detection.figures),
        "match_score": findings.match.as_dict() if findings.match else {},
        "fusion": findings.choice.fusions[SHIPPED].weights,
    }


def _plain(intervals: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables of intervals as JSON."""
    return {
        name: value.as_dict() if isinstance(value, Interval) else _plain(value)
        for name, value in intervals.items()
    }


def _facts(inputs: Mapping[str, Artifact], metrics: Mapping[str, float]) -> dict[str, str]:
    gallery = inputs["index"].manifest.metrics
    return {
        "test queries": f"{metrics['test/num_queries']:.0f}",
        "dev queries": f"{metrics['dev/num_queries']:.0f}",
        "products per test query, labeled": f"{metrics['test/labels_per_query']:.2f}",
        "boxes per test query, found": f"{metrics['test/instances_per_query']:.2f}",
        "gallery items": f"{gallery['num_items']:.0f}",
        "index": str(inputs["index"].manifest.config["factory"]),
        "index recall@100, boxes and weights as shipped": f"{metrics[SEARCHED_RECALL]:.4f}",
        **_held_out_fact(metrics),
        **{f"digest of {name}": artifact.digest[:12] for name, artifact in inputs.items()},
    }


def _held_out_fact(metrics: Mapping[str, float]) -> dict[str, str]:
    if "held_out_scenes/recall" not in metrics:
        return {}
    recall, precision = metrics["held_out_scenes/recall"], metrics["held_out_scenes/precision"]
    return {"boxes on held-out scenes": f"recall {recall:.3f}, precision {precision:.3f}"}


def _write_tables(writer: ArtifactWriter, metrics: Mapping[str, Any], findings: Findings) -> None:
    folder = writer.folder
    fusions = {name: fusion.as_dict() for name, fusion in findings.choice.fusions.items()}
    write_json(folder / METRICS_FILE, metrics)
    write_json(folder / FUSION, fusions)
    if findings.match:
        write_json(folder / MATCH_SCORE, findings.match.scorer.model_dump())
    write_json(folder / LATENCY, findings.latency.to_dict("index"))
    writer.timed |= {LATENCY, REPORT}
    write_table(folder / PER_QUERY, findings.scores)
    write_table(folder / SLICES, findings.slices.reset_index())
    write_table(folder / QUERY_BOXES, box_table(findings.queries.detected))
    counts = findings.detection.per_query
    if len(counts.columns):
        counts.insert(0, "query_id", findings.queries.detected.query_ids)
        write_table(folder / PRODUCTS_PER_QUERY, counts)
    write_table(folder / FUSION_TRIALS, findings.choice.fusions[SHIPPED].trials)


def _flat(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Scalars under names like `test/strict/shipped/mAP@10`."""
    scalars = {
        f"{split}/{figure.name}": figure.value
        for split in SPLITS
        for figure in figures(metrics[split])
        if figure.method == SHIPPED or (split == "test" and figure.metric == "mAP")
    }
    for method, interval in metrics["differences"].items():
        scalars |= {f"difference/{method}/{end}": value for end, value in interval.items()}
    return scalars


def _counts(prepared: _Queries) -> dict[str, float]:
    lacking = set(prepared.truth.missing_labels)
    counts: dict[str, float] = {"num_queries_with_boxes": float(prepared.boxes.num_known)}
    for split, variants in prepared.variants.items():
        detected = variants.detected
        labels = [prepared.truth.query_labels[query] for query in detected.query_ids]
        num_boxes = [boxes.num_shown for boxes in detected.boxes]
        counts |= {
            f"{split}/num_queries": float(len(labels)),
            f"{split}/num_queries_lacking_labels": float(
                sum(not lacking.isdisjoint(row) for row in labels)
            ),
            f"{split}/instances_per_query": float(np.mean(num_boxes)),
            f"{split}/labels_per_query": float(np.mean([len(row) for row in labels])),
        }
    return counts


def _detection_and_latency(findings: Findings) -> dict[str, float]:
    """Metrics of detection and match scores, and how long a query takes."""
    return {
        **(findings.match.scalars() if findings.match else {}),
        **{f"detection/{name}": value.mean for name, value in findings.detection.figures.items()},
        **{
            f"latency/{stage}_ms_{quantile}": value
            for stage, quantiles in findings.latency.to_dict("index").items()
            for quantile, value in quantiles.items()
        },
    }
