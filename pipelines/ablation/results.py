"""Results of an ablation: every cell compared with the full model on the same queries.

Two sources of chance are reported separately. Queries are a sample: the interval resamples them,
after averaging each query's AP over the seeds. Trainings differ: every seed's figure is listed.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel

from pipelines.ablation.cells import COUNTS
from pipelines.ablation.grids import FULL, Cell, Grid
from product1m import __version__
from product1m.errors import PipelineError
from product1m.evaluation.detection_quality import PRODUCTS
from product1m.evaluation.methods import SHIPPED
from product1m.evaluation.statistics import (
    MAIN_DEPTH,
    METRIC_NAMES,
    BootstrapPlan,
    Interval,
    bootstrap_interval,
    bootstrap_ratios,
    paired_difference,
)

TABLE_JSON, TABLE_CSV = "results.json", "results.csv"
Scores = Mapping[str, Mapping[int, pd.DataFrame]]
"""Cell to seed to the table of `read_scores`."""


class CellScore(BaseModel):
    """One cell under one measure; all scores are strict mAP@10 on the test queries."""

    cell: str
    meaning: str
    overrides: dict[str, Any]
    measure: str
    method: str
    """The ranking of the cell's evaluation that was measured."""
    score: Interval
    """Mean over seeds; interval over queries."""
    by_seed: dict[int, float]
    difference: Interval
    """Cell − full model, paired by query and seed; zeros for the full model itself."""
    difference_by_seed: dict[int, float]
    others: dict[str, float]
    """More metrics, means over queries and seeds."""
    products: dict[str, Interval] = {}
    """Products found, by name; empty if they are unknown, or for a ranking that has no boxes."""


class AblationResults(BaseModel):
    """`results.json`."""

    grid: str
    question: str
    preset: str
    dataset: dict[str, str]
    code_version: str = __version__
    seeds: list[int]
    num_queries: int
    confidence: float
    measures: list[str]
    rows: list[CellScore]
    left_out: dict[str, str]
    shows_products: bool = False

    def rows_for(self, measure: str) -> list[CellScore]:
        """Rows of a measure, the full model first."""
        return [row for row in self.rows if row.measure == measure]


def compare(
    grid: Grid,
    scores: Scores,
    plan: BootstrapPlan,
    left_out: Mapping[str, str],
    preset: str,
    dataset: Mapping[str, str],
) -> AblationResults:
    """Compare every cell that has scores with the full model, under every measure of the grid.

    A cell that is another ranking of the full model's evaluation has the first measure only.
    """
    rows = [
        _cell_score(cell, measure, scores, plan)
        for measure in grid.measures
        for cell in grid.cells
        if cell.name in scores and SHIPPED in (cell.method, measure)
    ]
    return AblationResults(
        grid=grid.name,
        question=grid.question,
        preset=preset,
        dataset=dict(dataset),
        seeds=sorted(scores[FULL]),
        num_queries=len(_ap(scores[FULL], grid.measures[0], FULL)),
        confidence=plan.confidence,
        measures=list(grid.measures),
        rows=rows,
        left_out=dict(left_out),
        shows_products=grid.shows_products,
    )


def _cell_score(cell: Cell, measure: str, scores: Scores, plan: BootstrapPlan) -> CellScore:
    method = cell.method_of(measure)
    full = _ap(scores[FULL], measure, FULL)
    ap = _ap(scores[cell.name], method, cell.name)
    return CellScore(
        cell=cell.name,
        meaning=cell.meaning,
        overrides=dict(cell.overrides),
        measure=measure,
        method=method,
        score=bootstrap_interval(ap.mean(axis=1), plan),
        by_seed=_by_seed(ap),
        difference=paired_difference(ap.mean(axis=1), full.mean(axis=1), plan),
        difference_by_seed=_by_seed(ap - full),
        others=_others(scores[cell.name], method),
        products=_products(scores[cell.name], method, plan),
    )


def _ap(by_seed: Mapping[int, pd.DataFrame], method: str, cell: str) -> pd.DataFrame:
    """Strict AP@10, one row per query and one column per seed."""
    columns = {seed: _select(frame, method, "strict")["ap"] for seed, frame in by_seed.items()}
    table = pd.DataFrame(columns)
    if table.empty or table.isna().any(axis=None):
        raise PipelineError(
            f"{cell}: its {len(columns)} seeds scored different queries under {method!r}; "
            "delete the folder `ablations/results` and run the same command again"
        )
    return table


def _select(frame: pd.DataFrame, method: str, definition: str) -> pd.DataFrame:
    wanted = (frame["method"] == method) & (frame["definition"] == definition)
    return frame[wanted].set_index("query_id")


def _by_seed(table: pd.DataFrame) -> dict[int, float]:
    return {int(seed): float(mean) for seed, mean in zip(table.columns, table.mean(), strict=True)}


def _others(by_seed: Mapping[int, pd.DataFrame], method: str) -> dict[str, float]:
    means = {}
    for definition in ("strict", "official"):
        rows = pd.concat([_select(frame, method, definition) for frame in by_seed.values()])
        for column, name in METRIC_NAMES.items():
            means[f"{definition}/{name}@{MAIN_DEPTH}"] = float(rows[column].mean())
    return means


def _products(
    by_seed: Mapping[int, pd.DataFrame], method: str, plan: BootstrapPlan
) -> dict[str, Interval]:
    """Shares of the products that were found, of all seeds together."""
    tables = [_select(frame, method, "strict") for frame in by_seed.values()]
    if method != SHIPPED or not all(PRODUCTS in table for table in tables):
        return {}
    counts = pd.concat(tables).groupby(level=0)[[PRODUCTS, *COUNTS]].sum()
    return bootstrap_ratios(counts, {name: (name, PRODUCTS) for name in COUNTS}, plan)


def write_results(folder: Path, results: AblationResults) -> list[Path]:
    """Write the results as JSON, and as CSV with one line per cell and measure."""
    folder.mkdir(parents=True, exist_ok=True)
    as_json, as_csv = folder / TABLE_JSON, folder / TABLE_CSV
    as_json.write_text(results.model_dump_json(indent=2), "utf-8")
    pd.DataFrame([_flat(row) for row in results.rows]).to_csv(as_csv, index=False)
    return [as_json, as_csv]


def _flat(row: CellScore) -> dict[str, Any]:
    seeds = {f"map_at_10_seed_{seed}": value for seed, value in row.by_seed.items()}
    return {
        "cell": row.cell,
        "meaning": row.meaning,
        "measure": row.measure,
        "method": row.method,
        "overrides": json.dumps(row.overrides),
        **{f"map_at_10_{end}": value for end, value in row.score.as_dict().items()},
        **{f"difference_{end}": value for end, value in row.difference.as_dict().items()},
        **seeds,
        **row.others,
        **{
            f"{name}_{end}": value
            for name, share in row.products.items()
            for end, value in share.as_dict().items()
        },
    }
