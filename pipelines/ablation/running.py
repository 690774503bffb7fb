"""Run an ablation on this machine: every cell with every seed, each a child of one MLflow run.

Cells share the cache of the output folder. A step does not run again if another cell, or a plain
run in the same folder, ran it with the same inputs and the same configuration.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import typer

from pipelines.ablation.cells import CellResult, read_result, read_scores, result_key
from pipelines.ablation.grids import SEED_KEY, Cell, Grid
from pipelines.ablation.results import AblationResults, compare, write_results
from pipelines.ablation.showing import draw, markdown
from pipelines.graph.data import data_parameters, with_state
from pipelines.graph.preflight import check_data, check_models, check_writable
from pipelines.local.code import source_digest
from pipelines.local.mlflow_run import TrackedRun, start_run
from pipelines.local.processes import only_run, steps_end_with_run
from pipelines.local.run import output_folder
from product1m.artifacts.folder import Artifact
from product1m.config import STEPS, Config
from product1m.evaluation.statistics import MAIN_DEPTH, BootstrapPlan

Evaluate = Callable[[Config, Mapping[str, str], Path, TrackedRun], Artifact]
"""Runs a cell: configuration, data parameters, output folder, MLflow run to join; returns the
evaluation."""
ABLATIONS, MARKDOWN, PLOT = "ablations", "table.md", "plot.png"


@dataclass(frozen=True)
class Ablation:
    """Request for an ablation: grid, configuration, data, output folder."""

    grid: Grid
    config: Config
    preset: str
    dataset: str
    output: Path
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of pretraining; every cell runs once per seed."""
    backgrounds: str = ""


def run_ablation(ablation: Ablation, evaluate: Evaluate) -> AblationResults:
    """Run all unfinished cells; write tables and plot below `OUTPUT/ablations/GRID`.

    Raises DatasetError or PipelineError, the latter with the failed step. Finished cells are kept;
    the same call continues.
    """
    check_models(ablation.config)
    check_data(ablation.config, ablation.dataset, ablation.backgrounds)
    arguments = with_state(data_parameters(ablation.dataset, ablation.backgrounds))
    output = output_folder(ablation.output, arguments)
    check_writable(output)
    root, work = result_folder(output, ablation.grid), output / "work"
    for folder in (root, work):
        folder.mkdir(parents=True, exist_ok=True)
    tags = {"ablation": ablation.grid.name, "preset": ablation.preset, **arguments}
    with only_run(output, work), steps_end_with_run():
        parent = start_run(output, tags, f"ablation {ablation.grid.name}")
        with parent.ended() as metrics:
            running = _Running(ablation, arguments, output, parent, evaluate)
            results = running.run_all()
            parent.attach(*_write(root, results))
            metrics.update(_parent_metrics(results))
    return results


def result_folder(output: Path, grid: Grid) -> Path:
    """Folder of a grid's tables and plot."""
    return output / ABLATIONS / grid.name


class _Running:
    """State of a running ablation."""

    def __init__(
        self,
        ablation: Ablation,
        arguments: Mapping[str, str],
        output: Path,
        parent: TrackedRun,
        evaluate: Evaluate,
    ) -> None:
        self.ablation, self.grid = ablation, ablation.grid
        self.arguments, self.output = arguments, output
        self.results_folder = output / ABLATIONS / "results"
        self.parent, self.evaluate = parent, evaluate
        self.code = source_digest(step for step in STEPS if step != "registration")
        self.scores: dict[str, dict[int, pd.DataFrame]] = {}
        self.left_out = dict(ablation.grid.left_out)
        self.seconds: list[float] = []
        """Durations of the cells that were not finished before."""

    def run_all(self) -> AblationResults:
        """Run every cell with the first seed, then with the second, and so on."""
        turns = [(seed, cell) for seed in self.ablation.seeds for cell in self.grid.cells]
        for number, (seed, cell) in enumerate(turns):
            if cell.name not in self.left_out:
                self._announce(number, len(turns), cell, seed)
                self._keep(cell, seed, self._scores(cell, seed))
        return compare(
            self.grid,
            self.scores,
            BootstrapPlan.from_config(self.ablation.config.evaluation),
            self.left_out,
            self.ablation.preset,
            self.arguments,
        )

    def _scores(self, cell: Cell, seed: int) -> pd.DataFrame:
        """Scores of a cell, computed or read; either way with an MLflow run."""
        config = cell.config(self.ablation.config, seed)
        key = result_key(self.code, self.arguments, config)
        finished = read_result(self.results_folder, key)
        tags = {"ablation": self.grid.name, "cell": cell.name, "measured": cell.method}
        if finished:
            typer.echo(f"  already evaluated: {finished[0].evaluation}")
            tags["earlier_run"] = finished[0].mlflow_run
        child = self.parent.child(f"{cell.name}, seed {seed}", tags, _parameters(cell, config))
        with child.ended() as metrics:
            scores = finished[1] if finished else self._run(cell, seed, config, key, child)
            metrics.update(_child_metrics(scores, cell, self.grid))
        return scores

    def _run(
        self, cell: Cell, seed: int, config: Config, key: str, child: TrackedRun
    ) -> pd.DataFrame:
        started = time.monotonic()
        evaluation = self.evaluate(config, self.arguments, self.output, child)
        scores = read_scores(evaluation)
        self.seconds.append(time.monotonic() - started)
        CellResult(
            key=key,
            cell=cell.name,
            seed=seed,
            overrides=dict(cell.overrides),
            evaluation=evaluation.folder,
            mlflow_run=child.run_id,
            seconds=round(self.seconds[-1], 1),
        ).write(self.results_folder, scores)
        return scores

    def _keep(self, cell: Cell, seed: int, scores: pd.DataFrame) -> None:
        """Add scores to the results, or print why the cell is left out."""
        methods = {cell.method_of(measure) for measure in self.grid.measures}
        missing = ", ".join(sorted(methods - set(scores["method"])))
        if not missing:
            self.scores.setdefault(cell.name, {})[seed] = scores
            return
        self.left_out[cell.name] = (
            f"the evaluation has no ranking {missing}; the data set lacks what it needs"
        )
        typer.echo(f"  left out: {self.left_out[cell.name]}")

    def _announce(self, number: int, num_turns: int, cell: Cell, seed: int) -> None:
        """Print which cell starts, and how long the rest may take at most."""
        left = ""
        if self.seconds:
            minutes = (num_turns - number) * sum(self.seconds) / len(self.seconds) / 60
            left = f"; at most {minutes:.0f} min left"
        typer.echo(f"[{number + 1}/{num_turns}] {cell.name} ({cell.meaning}), seed {seed}{left}")


def _parameters(cell: Cell, config: Config) -> dict[str, Any]:
    """The changed keys and the seed, named as the steps log them."""
    values = config.model_dump(mode="json")
    keys = [key.split(".") for key in (*cell.overrides, SEED_KEY)]
    return {f"{section}.{name}": values[section][name] for section, name in keys}


def _child_metrics(scores: pd.DataFrame, cell: Cell, grid: Grid) -> dict[str, float]:
    """Strict and official mAP@10 of every measured ranking."""
    metrics = {}
    for measure in grid.measures:
        rows = scores[scores["method"] == cell.method_of(measure)]
        for definition, ap in rows.groupby("definition")["ap"].mean().items():
            metrics[f"{definition}/{measure}/mAP_at_{MAIN_DEPTH}"] = float(ap)
    return metrics


def _parent_metrics(results: AblationResults) -> dict[str, float]:
    """Every cell's difference to the full model on the first measure, with its interval."""
    return {
        f"difference/{row.cell}/{end}": value
        for row in results.rows_for(results.measures[0])
        for end, value in row.difference.as_dict().items()
    }


def _write(root: Path, results: AblationResults) -> list[Path]:
    """Write the tables as JSON, CSV and Markdown, and the plot; return the paths."""
    table, plot = root / MARKDOWN, root / PLOT
    written = write_results(root, results)
    table.write_text(markdown(results), "utf-8")
    draw(results, plot)
    return [*written, table, plot]
