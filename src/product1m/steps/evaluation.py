"""Per-instance retrieval of the queries, its metrics and its report."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from product1m.artifacts.folder import Artifact, ArtifactWriter, open_artifact
from product1m.artifacts.lineage import require_descends, require_same_rpn
from product1m.config import EvaluationConfig
from product1m.data.class_names import CLASSES
from product1m.data.geometry import CORNERS
from product1m.data.items import ItemTable
from product1m.data.regions import FeatureSet
from product1m.errors import RetrievalError
from product1m.evaluation.detection_quality import detection_quality
from product1m.evaluation.examples import write_examples
from product1m.evaluation.fusion import FusionSettings
from product1m.evaluation.latency import measure_latency
from product1m.evaluation.methods import SHIPPED
from product1m.evaluation.metrics import GroundTruth
from product1m.evaluation.ranking import Choice, choose_fusions, rank_all
from product1m.evaluation.report import write_plots, write_report
from product1m.evaluation.report.findings import Findings, ReportSettings, report_content
from product1m.evaluation.results import (
    all_intervals,
    ap_by_method,
    differences,
    figures,
    gains_of_blocks,
    mean_tables,
    score_methods,
)
from product1m.evaluation.slices import slices_of
from product1m.evaluation.statistics import MAIN_DEPTH, BootstrapPlan, Interval
from product1m.evaluation.variants import QueryViews, TrueBoxes, query_views, true_boxes, with_crops
from product1m.retrieval.search import Searcher, SearchSettings
from product1m.steps.bracket import open_step

SPLITS = ("dev", "test")
RESULT_LIST = "retrieval_id_list.txt"
REPORT, LATENCY = "report.html", "latency.json"
Rankings = dict[str, dict[str, list[str]]]
"""Method to query id to gallery ids, best first."""


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

    Crops, which nothing is chosen by, are encoded for test queries only, and without the RPN not at
    all. Raises ArtifactError where the inputs descend from different models, RetrievalError, with
    the query's id, where a query cannot be answered.
    """
    with open_step("evaluation", config, evaluation) as step:
        inputs = step.read(_open(query_features, capture, index, queries, gallery, rpn))
        prepared = _prepare(inputs, config)
        searcher, truth = prepared.searcher, prepared.truth
        choice = choose_fusions(
            searcher, prepared.views["dev"].found, truth, FusionSettings.from_config(config)
        )
        ranked = {
            split: rank_all(searcher, views, choice.fusions, truth, config.seed)
            for split, views in prepared.views.items()
        }
        found = _find(prepared, choice, ranked, config)
        _write(step.writer, inputs, prepared, found, ranked, config)
        step.attach(REPORT, *sorted(path.name for path in step.folder.glob("*.png")))
    return step.all_metrics()


@dataclass(frozen=True)
class _Prepared:
    """Everything that is to be ranked and what is true of it."""

    features: FeatureSet
    searcher: Searcher
    truth: GroundTruth
    boxes: TrueBoxes
    views: dict[str, QueryViews]
    """By split."""
    rows: dict[str, list[int]]
    """Of the feature set, by split."""
    train_titles: dict[str, int] | None
    """How many training titles name each class."""


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
    require_descends(inputs["query_features"], inputs["queries"])
    require_descends(inputs["index"], inputs["gallery"])
    if rpn is not None:
        inputs["rpn"] = open_artifact(rpn, "rpn_training")
        require_descends(inputs["query_features"], inputs["rpn"])
    return inputs


def _prepare(inputs: Mapping[str, Artifact], config: EvaluationConfig) -> _Prepared:
    features = FeatureSet(inputs["query_features"])
    searcher = Searcher.load(inputs["index"], inputs["capture"], SearchSettings.from_config(config))
    truth, boxes = _truth(features, searcher), true_boxes(features)
    rows = _rows_by_split(features)
    views = query_views(searcher, features, boxes)
    by_split = {split: views.select(of_split) for split, of_split in rows.items()}
    if config.encode_crops and "rpn" in inputs:
        photos, test = ItemTable(inputs["queries"]), rows["test"]
        by_split["test"] = with_crops(
            by_split["test"], searcher, features, test, photos, inputs["rpn"]
        )
    titles = _train_titles(inputs["queries"])
    return _Prepared(features, searcher, truth, boxes, by_split, rows, titles)


def _find(
    prepared: _Prepared, choice: Choice, ranked: Mapping[str, Rankings], config: EvaluationConfig
) -> Findings:
    """Figures of the test queries."""
    searcher, truth = prepared.searcher, prepared.truth
    plan = BootstrapPlan.from_config(config)
    rows, views = prepared.rows["test"], prepared.views["test"]
    queries = views.found.query_ids
    scores = score_methods(ranked, truth)
    of_test = scores[scores["split"] == "test"]
    ap = ap_by_method(of_test)
    shipped = choice.fusions[SHIPPED]
    found = [instances.boxes_xyxy for instances in views.found.found]
    true = [prepared.boxes.boxes_xyxy[row] for row in rows]
    return Findings(
        views=views,
        rankings=ranked["test"],
        scores=scores,
        ap=ap,
        intervals=all_intervals(of_test, plan),
        differences=differences(ap, plan),
        choice=choice,
        gains=gains_of_blocks(searcher, views, choice, truth, ap[SHIPPED], plan),
        slices=slices_of(
            {query: truth.query_labels[query] for query in queries},
            truth.gallery_label.values(),
            prepared.train_titles,
        ),
        detection=detection_quality(
            found,
            [len(truth.query_labels[query]) for query in queries],
            true if prepared.boxes.complete else None,
            plan,
        ),
        latency=measure_latency(
            searcher, prepared.features, rows, shipped.weights, config.num_timed_queries
        ),
        truth=truth,
        num_with_boxes=sum(len(boxes) > 0 for boxes in true),
    )


def _train_titles(queries: Artifact) -> dict[str, int] | None:
    """Training titles that name each class; None where ingestion did not count them."""
    if CLASSES not in queries.manifest.files:
        return None
    table = pq.read_table(queries.file(CLASSES)).to_pydict()
    return dict(zip(table["label"], table["train_titles"], strict=True))


def _write(
    writer: ArtifactWriter,
    inputs: Mapping[str, Artifact],
    prepared: _Prepared,
    found: Findings,
    ranked: Mapping[str, Rankings],
    config: EvaluationConfig,
) -> None:
    metrics = _metrics(found)
    writer.metrics.update(_flat(metrics) | _counts(prepared) | _more_figures(found))
    photos = ItemTable(inputs["queries"]), ItemTable(inputs["gallery"])
    content = report_content(
        found,
        prepared.searcher,
        *photos,
        _facts(inputs, writer.metrics),
        ReportSettings.from_config(config),
    )
    write_report(content, writer.folder / REPORT)
    write_plots(content, writer.folder)
    _write_tables(writer, metrics, found)
    _write_list(writer.folder / RESULT_LIST, ranked)
    write_examples(writer.folder, prepared.features, photos[0], ranked["test"][SHIPPED])


def _truth(features: FeatureSet, searcher: Searcher) -> GroundTruth:
    rows = searcher.gallery.rows
    unlabelled = rows.loc[[not labels for labels in rows["labels"]], "id"].tolist()
    if unlabelled:
        raise RetrievalError(
            f"gallery item {unlabelled[0]} and {len(unlabelled) - 1} more have no label; "
            "evaluation needs one for each gallery item"
        )
    return GroundTruth.of_rows(features.rows, rows)


def _rows_by_split(features: FeatureSet) -> dict[str, list[int]]:
    splits = features.rows["split"]
    rows = {split: np.flatnonzero(splits == split).tolist() for split in SPLITS}
    for split, found in rows.items():
        if not found:
            raise RetrievalError(
                f"{features.artifact.folder}: no {split} queries among {len(splits)}; the block "
                "weights are chosen on dev and measured on test, so both are needed: "
                "run ingestion with a dev_share between 0 and 1"
            )
    return rows


def _metrics(found: Findings) -> dict[str, Any]:
    """What `metrics.json` holds."""
    means = mean_tables(found.scores)
    return {
        **{split: means[split] for split in SPLITS},
        "differences": _plain(found.differences),
        "intervals": _plain(
            {
                name: tables["strict"][str(MAIN_DEPTH)]["mAP"]
                for name, tables in found.intervals.items()
            }
        ),
        "test_intervals": _plain(found.intervals),
        "blocks": {kind: [asdict(gain) for gain in gains] for kind, gains in found.gains.items()},
        "detection": _plain(found.detection.figures),
        "fusion": found.choice.fusions[SHIPPED].weights,
    }


def _plain(intervals: Mapping[str, Any]) -> dict[str, Any]:
    """Intervals, however deep, as JSON has them."""
    return {
        name: value.as_dict() if isinstance(value, Interval) else _plain(value)
        for name, value in intervals.items()
    }


def _facts(inputs: Mapping[str, Artifact], metrics: Mapping[str, float]) -> dict[str, str]:
    gallery = inputs["index"].manifest.metrics
    return {
        "test queries": f"{metrics['test/num_queries']:.0f}",
        "dev queries": f"{metrics['dev/num_queries']:.0f}",
        "products a test query, as labelled": f"{metrics['test/labels_per_query']:.2f}",
        "instances a test query, as found": f"{metrics['test/instances_per_query']:.2f}",
        "gallery items": f"{gallery['num_items']:.0f}",
        "index": str(inputs["index"].manifest.config["factory"]),
        "index recall@100": f"{gallery['recall@100']:.4f}",
        **{f"digest of {name}": artifact.digest[:12] for name, artifact in inputs.items()},
    }


def _write_tables(writer: ArtifactWriter, metrics: Mapping[str, Any], found: Findings) -> None:
    folder = writer.folder
    fusions = {name: fusion.as_dict() for name, fusion in found.choice.fusions.items()}
    for name, value in (
        ("metrics.json", metrics),
        ("fusion.json", fusions),
        (LATENCY, found.latency.to_dict("index")),
    ):
        (folder / name).write_text(json.dumps(value, indent=2), "utf-8")
    writer.timed |= {LATENCY, REPORT}
    tables = {
        "per_query": found.scores,
        "slices": found.slices.reset_index(),
        "instances": _instances(found),
        "fusion_trials": found.choice.fusions[SHIPPED].trials,
    }
    for name, frame in tables.items():
        table = pa.Table.from_pandas(frame, preserve_index=False)
        pq.write_table(table, folder / f"{name}.parquet")


def _instances(found: Findings) -> pd.DataFrame:
    """Where the test queries' instances are: one row an instance, boxes in the stored photo."""
    vectors = found.views.found
    corners = np.concatenate([instances.boxes_xyxy for instances in vectors.found])
    counts = [len(instances) for instances in vectors.found]
    table = pd.DataFrame(corners, columns=list(CORNERS))
    table.insert(0, "query_id", np.repeat(vectors.query_ids, counts))
    return table.assign(score=np.concatenate([instances.scores for instances in vectors.found]))


def _write_list(path: Path, ranked: Mapping[str, Rankings]) -> None:
    """The shipped rankings as the released evaluator reads them: `query,item,item`, no blanks."""
    lines = [
        ",".join([query, *items])
        for methods in ranked.values()
        for query, items in methods[SHIPPED].items()
    ]
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")


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


def _counts(prepared: _Prepared) -> dict[str, float]:
    lacking = set(prepared.truth.missing_labels)
    counts: dict[str, float] = {"num_queries_with_boxes": float(prepared.boxes.num_known)}
    for split, views in prepared.views.items():
        labels = [prepared.truth.query_labels[query] for query in views.found.query_ids]
        found = [len(instances) for instances in views.found.found]
        counts |= {
            f"{split}/num_queries": float(len(labels)),
            f"{split}/num_queries_lacking_labels": float(
                sum(not lacking.isdisjoint(row) for row in labels)
            ),
            f"{split}/instances_per_query": float(np.mean(found)),
            f"{split}/labels_per_query": float(np.mean([len(of_query) for of_query in labels])),
        }
    return counts


def _more_figures(found: Findings) -> dict[str, float]:
    """How detection counts and how long a query takes."""
    return {
        **{f"detection/{name}": value.mean for name, value in found.detection.figures.items()},
        **{
            f"latency/{stage}_ms_{quantile}": value
            for stage, quantiles in found.latency.to_dict("index").items()
            for quantile, value in quantiles.items()
        },
    }
