"""Per-instance retrieval of the queries, its metrics and its report."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from product1m.artifacts import Artifact, open_artifact, write_artifact
from product1m.config import EvaluationConfig
from product1m.data.item_table import ItemTable
from product1m.data.region_features import FeatureSet
from product1m.errors import RetrievalError
from product1m.examples import write_examples
from product1m.retrieval.findings import Findings, report_content
from product1m.retrieval.fusion import Fusion
from product1m.retrieval.lineage import require_descends, require_same_rpn
from product1m.retrieval.methods import SHIPPED, choose_fusions, rank_all
from product1m.retrieval.metrics import DEFINITIONS, GroundTruth, mean_scores, score_queries
from product1m.retrieval.report import write_plots, write_report
from product1m.retrieval.search import QueryVectors, Searcher
from product1m.retrieval.statistics import Interval, bootstrap_intervals, slices_of
from product1m.tracking import step_run

SPLITS = ("dev", "test")
RESULT_LIST = "retrieval_id_list.txt"
REPORT = "report.html"
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
) -> dict[str, float]:
    """Choose the fusion on the dev queries, rank for every method, score, and write the report.

    Raises ArtifactError where the inputs descend from different models, RetrievalError, with the
    query's id, where a query cannot be answered.
    """
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
    with step_run("evaluation", config) as tracker:
        with write_artifact(evaluation, "evaluation", config, inputs) as writer:
            features = FeatureSet(inputs["query_features"])
            searcher = Searcher.load(inputs["index"], inputs["capture"], config)
            truth = _truth(features, searcher)
            vectors = _by_split(features, searcher.embed(features))
            fusions = choose_fusions(searcher, vectors["dev"], truth)
            ranked = {
                split: rank_all(searcher, of_split, fusions, truth)
                for split, of_split in vectors.items()
            }
            scores = _score(ranked, truth)
            metrics = _metrics(scores, fusions[SHIPPED], config)
            writer.metrics.update(_flat(metrics) | _counts(vectors, truth))
            found = Findings(
                vectors["test"],
                ranked["test"],
                scores[scores["split"] == "test"],
                slices_of({query: truth.query_labels[query] for query in ranked["test"][SHIPPED]}),
                {name: Interval(**ends) for name, ends in metrics["differences"].items()},
                fusions[SHIPPED],
                truth,
            )
            photos = ItemTable(inputs["queries"]), ItemTable(inputs["gallery"])
            content = report_content(found, searcher, *photos, _facts(inputs, writer.metrics))
            write_report(content, writer.folder / REPORT)
            write_plots(content, writer.folder)
            _write_tables(writer.folder, metrics, scores, fusions, found.slices)
            _write_list(writer.folder / RESULT_LIST, ranked)
            write_examples(writer.folder, features, photos[0], ranked["test"][SHIPPED])
        # The artifact is whole before a server that may be away is asked for anything.
        tracker.log_metrics(writer.metrics)
        for path in (evaluation / REPORT, *sorted(evaluation.glob("*.png"))):
            tracker.log_file(path)
    return dict(writer.metrics)


def _truth(features: FeatureSet, searcher: Searcher) -> GroundTruth:
    rows = searcher.gallery.rows
    unlabelled = rows.loc[[not labels for labels in rows["labels"]], "id"].tolist()
    if unlabelled:
        raise RetrievalError(
            f"gallery item {unlabelled[0]} and {len(unlabelled) - 1} more have no label; "
            "evaluation needs one for each gallery item"
        )
    return GroundTruth(
        {
            str(query): tuple(labels)
            for query, labels in zip(features.rows["id"], features.rows["labels"], strict=True)
        },
        {str(item): labels[0] for item, labels in zip(rows["id"], rows["labels"], strict=True)},
    )


def _by_split(features: FeatureSet, vectors: QueryVectors) -> dict[str, QueryVectors]:
    splits = features.rows["split"]
    rows = {split: np.flatnonzero(splits == split).tolist() for split in SPLITS}
    for split, found in rows.items():
        if not found:
            raise RetrievalError(
                f"{features.artifact.folder}: no {split} queries among {len(splits)}; the block "
                "weights are chosen on dev and measured on test, so both are needed: "
                "run ingestion with a dev_share between 0 and 1"
            )
    return {split: vectors.select(found) for split, found in rows.items()}


def _score(ranked: Mapping[str, Rankings], truth: GroundTruth) -> pd.DataFrame:
    """One row a query, method, definition and depth, with the query's split."""
    frames = [
        score_queries(rankings, truth, definition).assign(
            method=method, definition=definition, split=split
        )
        for split, methods in ranked.items()
        for method, rankings in methods.items()
        for definition in DEFINITIONS
    ]
    return pd.concat(frames, ignore_index=True)


def _metrics(scores: pd.DataFrame, shipped: Fusion, config: EvaluationConfig) -> dict[str, Any]:
    """What `metrics.json` holds."""
    metrics: dict[str, Any] = {split: {} for split in SPLITS}
    for (split, method, definition), rows in scores.groupby(
        ["split", "method", "definition"], sort=False
    ):
        metrics[str(split)].setdefault(method, {})[definition] = mean_scores(rows)
    rows = scores[(scores["split"] == "test") & (scores["definition"] == "strict")]
    ap = rows[rows["depth"] == 10].pivot(index="query_id", columns="method", values="ap")
    ap = ap[list(metrics["test"])]
    differences = ap.drop(columns=SHIPPED).rsub(ap[SHIPPED], axis=0)
    for key, values in (("differences", differences), ("intervals", ap)):
        found = bootstrap_intervals(values, config)
        metrics[key] = {method: interval.as_dict() for method, interval in found.items()}
    return metrics | {"fusion": shipped.weights}


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


def _write_tables(
    folder: Path,
    metrics: Mapping[str, Any],
    scores: pd.DataFrame,
    fusions: Mapping[str, Fusion],
    slices: pd.DataFrame,
) -> None:
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2), "utf-8")
    chosen = {name: fusion.as_dict() for name, fusion in fusions.items()}
    (folder / "fusion.json").write_text(json.dumps(chosen, indent=2), "utf-8")
    for name, frame in (("per_query", scores), ("slices", slices.reset_index())):
        table = pa.Table.from_pandas(frame, preserve_index=False)
        pq.write_table(table, folder / f"{name}.parquet")


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
        f"{split}/{definition}/{method}/{name}@{depth}": value
        for split in SPLITS
        for method, definitions in metrics[split].items()
        for definition, depths in definitions.items()
        for depth, values in depths.items()
        for name, value in values.items()
        if method == SHIPPED or (split == "test" and name == "mAP")
    }
    for method, interval in metrics["differences"].items():
        scalars |= {f"difference/{method}/{end}": value for end, value in interval.items()}
    return scalars


def _counts(vectors: Mapping[str, QueryVectors], truth: GroundTruth) -> dict[str, float]:
    lacking = set(truth.missing_labels)
    counts: dict[str, float] = {}
    for split, queries in vectors.items():
        labels = [truth.query_labels[query] for query in queries.query_ids]
        counts |= {
            f"{split}/num_queries": float(len(labels)),
            f"{split}/num_queries_lacking_labels": float(
                sum(not lacking.isdisjoint(row) for row in labels)
            ),
            f"{split}/instances_per_query": float(np.mean([len(found) for found in queries.found])),
            f"{split}/labels_per_query": float(np.mean([len(of_query) for of_query in labels])),
        }
    return counts
