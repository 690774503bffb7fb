"""The files of an evaluation artifact: their names and how to read them.

`examples.parquet` is described in `evaluation/examples.py`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from product1m.artifacts.folder import Artifact
from product1m.evaluation.methods import SHIPPED
from product1m.retrieval.match_score import MatchScorer

METRICS_FILE = "metrics.json"
"""Every figure with its interval."""
FUSION = "fusion.json"
"""The weights of every fusion, chosen on the dev queries."""
MATCH_SCORE = "match_score.json"
"""How match scores are computed, fitted on the dev queries; missing if nothing could be fitted."""
LATENCY, REPORT = "latency.json", "report.html"
"""Both hold measured times, so they do not count in the digest."""
RANKINGS = "retrieval_id_list.txt"
"""In a folder per split: the shipped rankings, in the format of the released evaluator."""
PER_QUERY = "per_query.parquet"
"""The scores of every query, method, definition and depth."""
SLICES = "slices.parquet"
"""The slices that each test query is in."""
QUERY_BOXES = "instances.parquet"
"""The boxes of the test queries."""
PRODUCTS_PER_QUERY = "products.parquet"
"""Products, boxes and products found, by test query; only if the true boxes are known."""
FUSION_TRIALS = "fusion_trials.parquet"
"""The score of every combination of weights tried for the shipped fusion."""


def rankings_of(split: str) -> str:
    """Name of the file with a split's rankings; the released evaluator reads its folder."""
    return f"{split}/{RANKINGS}"


def write_json(path: Path, content: Mapping[Any, Any]) -> None:
    """Write one of the JSON files."""
    path.write_text(json.dumps(content, indent=2), "utf-8")


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write one of the Parquet files, without the table's index."""
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), path)


def read_metrics(evaluation: Artifact) -> dict[str, Any]:
    """The content of `metrics.json`."""
    return _read_json(evaluation, METRICS_FILE)


def shipped_weights(evaluation: Artifact) -> dict[str, float]:
    """The shipped fusion: block to weight."""
    weights: dict[str, float] = _read_json(evaluation, FUSION)[SHIPPED]["weights"]
    return weights


def match_scorer(evaluation: Artifact) -> MatchScorer | None:
    """How match scores are computed; None if the evaluation fitted none."""
    if MATCH_SCORE not in evaluation.manifest.files:
        return None
    return MatchScorer.model_validate(_read_json(evaluation, MATCH_SCORE))


def read_per_query(evaluation: Artifact) -> pd.DataFrame:
    """One row per query, method, definition and depth.

    Split, group of queries with the same labels, `ap` and other scores are columns.
    """
    scores: pd.DataFrame = pq.read_table(evaluation.file(PER_QUERY)).to_pandas()
    return scores


def read_products(evaluation: Artifact) -> pd.DataFrame | None:
    """The counts of `DetectionQuality.per_query` by query id; None without true boxes."""
    if PRODUCTS_PER_QUERY not in evaluation.manifest.files:
        return None
    table: pd.DataFrame = pq.read_table(evaluation.file(PRODUCTS_PER_QUERY)).to_pandas()
    return table.set_index("query_id")


def read_slices(evaluation: Artifact) -> dict[str, dict[str, str]]:
    """Slicing (`products`, `brand`, …) to test query to slice."""
    slices = pq.read_table(evaluation.file(SLICES)).to_pandas().set_index("query_id")
    return {str(slicing): members.to_dict() for slicing, members in slices.items()}


def _read_json(evaluation: Artifact, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(evaluation.file(name).read_text("utf-8"))
    return content
