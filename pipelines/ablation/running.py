"""An ablation on this machine: every cell and seed in turn, one MLflow run with a child a cell.

Cells share the output folder's cache, so a step whose inputs and section are those of another cell,
or of a plain run in the same folder, does not run again.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import typer

from pipelines.ablation.cells import DEPTH, CellResult, read_result, read_scores, result_key
from pipelines.ablation.grids import SEED_KEY, Cell, Grid
from pipelines.ablation.results import Comparison, compare, write_results
from pipelines.ablation.showing import draw, markdown
from pipelines.graph.data import data_parameters
from pipelines.local.mlflow_run import TrackedRun, start_run
from pipelines.local.processes import only_run, steps_end_with_run
from pipelines.local.run import output_folder, source_digest
from product1m.artifacts.folder import Artifact
from product1m.config import Config

Evaluate = Callable[[Config, Mapping[str, str], Path, TrackedRun], Artifact]
"""A cell's configuration, the data parameters, the output folder and the MLflow run to join, to the
evaluation."""
ABLATIONS, MARKDOWN, PLOT = "ablations", "table.md", "plot.png"


@dataclass(frozen=True)
class Ablation:
    """What to compare, on what, and where to."""

    grid: Grid
    config: Config
    preset: str
    dataset: str
    output: Path
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of pretraining; every cell runs once for each."""
    backgrounds: str = ""


def run_ablation(ablation: Ablation, evaluate: Evaluate) -> Comparison:
    """Run what is not finished yet, and write tables and plot below `OUTPUT/ablations/GRID`.

    Raises DatasetError or PipelineError, the latter with the step that failed; finished cells are
    kept, and the same call goes on.
    """
    arguments = data_parameters(ablation.dataset, ablation.backgrounds)
    output = output_folder(ablation.output, arguments)
    root, work = result_folder(output, ablation.grid), output / "work"
    for folder in (root, work):
        folder.mkdir(parents=True, exist_ok=True)
    tags = {"ablation": ablation.grid.name, "preset": ablation.preset, **arguments}
    with only_run(output, work), steps_end_with_run():
        parent = start_run(output, tags, f"ablation {ablation.grid.name}")
        with parent.ended() as metrics:
            running = _Running(ablation, arguments, output, parent, evaluate)
            comparison = running.all_turns()
            parent.attach(*_write(root, comparison))
            metrics.update(_parent_metrics(comparison))
    return comparison


def result_folder(output: Path, grid: Grid) -> Path:
    """Where a grid's tables and plot lie."""
    return output / ABLATIONS / grid.name


class _Running:
    """An ablation while it runs."""

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
        self.results = output / ABLATIONS / "results"
        self.parent, self.evaluate = parent, evaluate
        self.code = source_digest()
        self.scores: dict[str, dict[int, pd.DataFrame]] = {}
        self.left_out = dict(ablation.grid.left_out)
        self.seconds: list[float] = []
        """What the cells took that had to run."""

    def all_turns(self) -> Comparison:
        """Every cell with the first seed, then with the second, and so on."""
        turns = [(seed, cell) for seed in self.ablation.seeds for cell in self.grid.cells]
        for number, (seed, cell) in enumerate(turns):
            if cell.name not in self.left_out:
                self._announce(number, len(turns), cell, seed)
                self._keep(cell, seed, self._turn(cell, seed))
        return compare(
            self.grid,
            self.scores,
            self.ablation.config.evaluation,
            self.left_out,
            self.ablation.preset,
            self.arguments,
        )

    def _turn(self, cell: Cell, seed: int) -> pd.DataFrame:
        """A cell's scores, computed unless they are there; an MLflow run either way."""
        config = cell.config(self.ablation.config, seed)
        key = result_key(self.code, self.arguments, config)
        finished = read_result(self.results, key)
        tags = {"ablation": self.grid.name, "cell": cell.name, "measured": cell.method}
        if finished:
            typer.echo(f"  evaluated already: {finished[0].evaluation}")
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
        ).write(self.results, scores)
        return scores

    def _keep(self, cell: Cell, seed: int, scores: pd.DataFrame) -> None:
        """Put scores down for the comparison, or say why the cell cannot be in it."""
        methods = {cell.method_of(measure) for measure in self.grid.measures}
        missing = ", ".join(sorted(methods - set(scores["method"])))
        if not missing:
            self.scores.setdefault(cell.name, {})[seed] = scores
            return
        self.left_out[cell.name] = (
            f"the evaluation holds no ranking {missing}; this data set does not say what it takes"
        )
        typer.echo(f"  left out: {self.left_out[cell.name]}")

    def _announce(self, number: int, num_turns: int, cell: Cell, seed: int) -> None:
        """Say which cell begins, and about how long the rest may take."""
        left = ""
        if self.seconds:
            minutes = (num_turns - number) * sum(self.seconds) / len(self.seconds) / 60
            left = f"; at most {minutes:.0f} min left"
        typer.echo(f"[{number + 1}/{num_turns}] {cell.name} ({cell.meaning}), seed {seed}{left}")


def _parameters(cell: Cell, config: Config) -> dict[str, Any]:
    """What sets a cell apart, as the steps log it."""
    values = config.model_dump(mode="json")
    keys = [key.split(".") for key in (*cell.overrides, SEED_KEY)]
    return {f"{section}.{name}": values[section][name] for section, name in keys}


def _child_metrics(scores: pd.DataFrame, cell: Cell, grid: Grid) -> dict[str, float]:
    """Strict and official mAP@10 of every measured ranking that there is."""
    metrics = {}
    for measure in grid.measures:
        rows = scores[scores["method"] == cell.method_of(measure)]
        for definition, ap in rows.groupby("definition")["ap"].mean().items():
            metrics[f"{definition}/{measure}/mAP_at_{DEPTH}"] = float(ap)
    return metrics


def _parent_metrics(comparison: Comparison) -> dict[str, float]:
    """Every cell's difference to the full model under the first measure, with its interval."""
    return {
        f"difference/{row.cell}/{end}": value
        for row in comparison.of(comparison.measures[0])
        for end, value in row.difference.as_dict().items()
    }


def _write(root: Path, comparison: Comparison) -> list[Path]:
    """Tables and plot, in every form."""
    table, plot = root / MARKDOWN, root / PLOT
    written = write_results(root, comparison)
    table.write_text(markdown(comparison), "utf-8")
    draw(comparison, plot)
    return [*written, table, plot]
