"""Stored results of finished cells, so that an interrupted ablation continues.

The key of a result is a digest of everything it depends on. Cells that use different rankings of
one evaluation share its result, and so do grids with a common cell.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from product1m.artifacts.atomic import write_text
from product1m.artifacts.folder import Artifact
from product1m.config import Config
from product1m.evaluation.artifact_files import read_per_query, read_products
from product1m.evaluation.detection_quality import FOUND, FOUND_DEPTHS, PRODUCTS
from product1m.evaluation.statistics import MAIN_DEPTH

RESULT, SCORES = "result.json", "scores.parquet"
COUNTS = tuple(map(FOUND.format, FOUND_DEPTHS))
"""Columns: how many products of a query were found, by depth."""


class CellResult(BaseModel):
    """`result.json` next to `scores.parquet`."""

    key: str
    cell: str
    """The first cell that it was computed for."""
    seed: int
    overrides: dict[str, Any]
    evaluation: Path
    """Artifact folder, with the report."""
    mlflow_run: str
    seconds: float

    def write(self, root: Path, scores: pd.DataFrame) -> None:
        """Write both files; the result last, so that its scores always exist."""
        folder = _folder(root, self.key)
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pandas(scores, preserve_index=False), folder / SCORES)
        write_text(folder / RESULT, self.model_dump_json(indent=2))


def result_key(code: str, data: Mapping[str, str], config: Config) -> str:
    """SHA-256 of what a result depends on: code, data and configuration."""
    identity = json.dumps([code, dict(data), config.model_dump(mode="json")], sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()


def read_result(root: Path, key: str) -> tuple[CellResult, pd.DataFrame] | None:
    """Read the result of a key; None if there is no finished one."""
    folder = _folder(root, key)
    try:
        result = CellResult.model_validate_json((folder / RESULT).read_text("utf-8"))
    except (FileNotFoundError, ValidationError):
        return None
    scores: pd.DataFrame = pq.read_table(folder / SCORES).to_pandas()
    return result, scores


def read_scores(evaluation: Artifact) -> pd.DataFrame:
    """One row per test query, method and definition, for the first `MAIN_DEPTH` answers.

    If the true boxes and their labels are known, the counts of a query's products and of those
    found are columns too; they are of the shipped ranking.
    """
    scores: pd.DataFrame = read_per_query(evaluation)
    wanted = (scores["split"] == "test") & (scores["depth"] == MAIN_DEPTH)
    scores, products = scores[wanted].reset_index(drop=True), read_products(evaluation)
    if products is None or not {PRODUCTS, *COUNTS} <= set(products):
        return scores
    return scores.join(products[[PRODUCTS, *COUNTS]], on="query_id")


def _folder(root: Path, key: str) -> Path:
    return root / key[:16]
