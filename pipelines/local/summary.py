"""Summary of a run: verified artifacts, `summary.json`, and tables for the terminal."""

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kfp import dsl
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from pipelines.local.console import StepTime
from pipelines.local.figures import NUM_COLUMNS, Figures, method_table, products_table
from pipelines.local.mlflow_run import TrackedRun
from product1m import __version__
from product1m.artifacts.atomic import write_text
from product1m.artifacts.folder import Artifact, open_artifact
from product1m.artifacts.manifest import Manifest
from product1m.errors import PipelineError, Product1MError, counted, redacted
from product1m.evaluation.artifact_files import REPORT, read_metrics

WIDTH = NUM_COLUMNS
"""Width of the tables in characters if stdout is not a terminal."""
PRODUCED_BY: dict[str, tuple[str, str]] = {
    "train": ("ingestion", "train"),
    "gallery": ("ingestion", "gallery"),
    "queries": ("ingestion", "queries"),
    "scenes": ("background_synthesis", "scenes"),
    "rpn": ("rpn_training", ""),
    "train_features": ("feature_extraction", "train"),
    "scene_features": ("feature_extraction", "scenes"),
    "gallery_features": ("feature_extraction", "gallery"),
    "query_features": ("feature_extraction", "queries"),
    "capture": ("capture_pretraining", ""),
    "index": ("indexing", ""),
    "evaluation": ("evaluation", ""),
    "registration": ("registration", ""),
}
"""Output of the pipeline to the step and part that its manifest must name."""

FIRST = "data_state"
"""The task that writes no artifact, so that only its time is known."""
DEPTH = "10"
"""Depth of the figures that a person sees, as a key of `metrics`."""
COSTS = ("seconds", "cpu_seconds", "peak_memory_mib", "peak_gpu_memory_mib")
"""Fields of a manifest with the cost of its step, measured by `product1m.telemetry.usage`."""


class StepSummary(BaseModel):
    """Cost of a step, read from its manifest; known for cached steps too."""

    seconds: float
    cpu_seconds: float = 0.0
    peak_memory_mib: float
    peak_gpu_memory_mib: float = 0.0
    cached: bool
    wall_seconds: float
    """From the start to the end of its process; 0 for a cached step."""


class ArtifactSummary(BaseModel):
    """Location and identity of an artifact."""

    path: Path
    digest: str
    num_bytes: int


class ModelSummary(BaseModel):
    """The registered model version."""

    name: str
    version: str
    gate: str = ""
    """The gate's verdict, and how many rules were not passed; empty in older summaries."""


class RunSummary(BaseModel):
    """`summary.json`."""

    preset: str
    code_version: str = __version__
    dataset: dict[str, str]
    metrics: dict[str, Any]
    """`test` and `dev`: method, definition, depth, then mAP, mAR and Prec."""
    differences: dict[str, dict[str, float]]
    """Shipped minus method, strict mAP@10 on the test queries, with interval."""
    intervals: dict[str, Any] = {}
    detection: dict[str, dict[str, float]] = {}
    """Products found, precision and recall of the boxes, … on the test queries, with interval."""
    fusion: dict[str, float]
    rpn: dict[str, float]
    """Recall of the proposals and of both baselines on held-out scenes."""
    steps: dict[str, StepSummary]
    seconds: float
    """Sum of the steps' wall time in this run."""
    peak_memory_mib: float
    artifacts: dict[str, ArtifactSummary]
    model: ModelSummary
    report: Path
    mlflow: dict[str, str]
    drift: dict[str, float] = {}
    """How far the catalogue had moved from the champion, of a run with `--when drifted`."""
    cached_metrics: dict[str, float] = {}

    @property
    def figures(self) -> Figures:
        """The figures of the test queries, for a table."""
        scores = {
            method: {definition: depths[DEPTH] for definition, depths in definitions.items()}
            for method, definitions in self.metrics["test"].items()
        }
        return Figures(scores, self.differences, self.detection)

    def write(self, path: Path) -> None:
        """Write the summary as JSON."""
        write_text(path, self.model_dump_json(indent=2, exclude={"cached_metrics"}))


def verified(outputs: Mapping[str, dsl.Artifact]) -> dict[str, Artifact]:
    """Open every artifact and check every file; PipelineError names the step of a damaged one.

    A runner may report a failed step as finished, so a run succeeds only after this check.
    """
    artifacts = {}
    for name, (step, part) in PRODUCED_BY.items():
        try:
            artifacts[name] = open_artifact(Path(outputs[name].path), step, part)
            artifacts[name].verify()
        except Product1MError as error:
            raise PipelineError(f"{step} wrote no usable artifact {name!r}: {error}") from error
    return artifacts


def summarize(
    preset: str,
    arguments: Mapping[str, str],
    steps: Mapping[str, StepTime],
    artifacts: Mapping[str, Artifact],
    tracked: TrackedRun,
) -> RunSummary:
    """Collect figures from the manifests and the evaluation."""
    scores = read_metrics(artifacts["evaluation"])
    rows = _step_rows(steps, artifacts)
    if FIRST in steps:
        took = steps[FIRST].seconds
        first = StepSummary(seconds=took, peak_memory_mib=0.0, cached=False, wall_seconds=took)
        rows = {FIRST: first, **rows}
    return RunSummary(
        preset=preset,
        dataset=dict(arguments),
        metrics={split: scores[split] for split in ("test", "dev")},
        differences=scores["differences"],
        intervals=scores.get("intervals", {}),
        detection=scores.get("detection", {}),
        fusion=scores["fusion"],
        rpn=dict(artifacts["rpn"].manifest.metrics),
        steps=rows,
        seconds=round(sum(row.wall_seconds for row in rows.values()), 1),
        peak_memory_mib=max(row.peak_memory_mib for row in rows.values()),
        artifacts={name: _artifact_row(artifact) for name, artifact in artifacts.items()},
        model=_model(artifacts["registration"].manifest),
        report=artifacts["evaluation"].file(REPORT),
        mlflow={"tracking_uri": redacted(tracked.uri), "run_id": tracked.run_id},
        cached_metrics=_cached_metrics(rows, artifacts),
    )


def _task_of(manifest: Manifest) -> str:
    """The task that wrote an artifact; feature extraction is one task per part."""
    return manifest.key if manifest.step == "feature_extraction" else manifest.step


def _step_rows(
    steps: Mapping[str, StepTime], artifacts: Mapping[str, Artifact]
) -> dict[str, StepSummary]:
    """One row per task; the maximum over the parts that a task wrote."""
    rows: dict[str, StepSummary] = {}
    for artifact in artifacts.values():
        manifest = artifact.manifest
        task = _task_of(manifest)
        timing = steps[task]
        before = rows.get(task)
        cost = {name: getattr(manifest, name) for name in COSTS}
        rows[task] = StepSummary(
            **{name: max(cost[name], getattr(before, name, 0)) for name in COSTS},
            cached=timing.cached,
            wall_seconds=timing.seconds,
        )
    return rows


def _artifact_row(artifact: Artifact) -> ArtifactSummary:
    num_bytes = sum(entry.num_bytes for entry in artifact.manifest.files.values())
    return ArtifactSummary(path=artifact.folder, digest=artifact.digest, num_bytes=num_bytes)


def _cached_metrics(
    rows: Mapping[str, StepSummary], artifacts: Mapping[str, Artifact]
) -> dict[str, float]:
    """Metrics of cached steps, under the names they log when they run."""
    metrics: dict[str, float] = {}
    for artifact in artifacts.values():
        manifest = artifact.manifest
        task = _task_of(manifest)
        if rows[task].cached:
            for name, value in manifest.metrics.items():
                metrics[f"{manifest.key}/{name.replace('@', '_at_')}"] = value
    return metrics


def _model(manifest: Manifest) -> ModelSummary:
    """The version that the registration made."""
    count = int(manifest.metrics["rules_not_passed"])
    failures = f", {counted(count, 'rule')} not passed" if count else ""
    return ModelSummary(
        name=manifest.details["name"],
        version=str(manifest.details["version"]),
        gate=f"{manifest.details['verdict']}{failures}",
    )


def show(summary: RunSummary, seconds: float) -> None:
    """Print the tables, where to find report and model, and what to do next."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    figures = summary.figures
    console.print(
        _step_table(summary), method_table(figures, console.width), products_table(figures)
    )
    model = summary.model
    tool = _tool()
    answers = f"{tool} serve --model models:/{model.name}/{model.version}"
    console.print(
        f"report     {summary.report}\n"
        f"candidate  {model.name} version {model.version}; gate: {model.gate}\n"
        f"run took   {seconds:.0f} s, peak memory {summary.peak_memory_mib / 1024:.1f} GiB\n"
        f"next       export MLFLOW_TRACKING_URI={summary.mlflow['tracking_uri']}\n"
        f"           {tool} ui {model.version}  (its page in MLflow, for a decision)\n"
        f"           {tool} registry show {model.version}  (the same in the terminal)\n"
        f"           {answers}  (a page that answers photos)",
        soft_wrap=True,
        highlight=False,
    )


def _step_table(summary: RunSummary) -> Table:
    table = Table(title="Steps")
    table.add_column("step", no_wrap=True)
    for name in ("seconds", "with start", "CPU s", "peak MiB", "GPU MiB"):
        table.add_column(name, justify="right")
    for task, row in summary.steps.items():
        wall = "cached" if row.cached else f"{row.wall_seconds:.1f}"
        gpu = f"{row.peak_gpu_memory_mib:.0f}" if row.peak_gpu_memory_mib else ""
        figures = (f"{row.seconds:.1f}", wall, f"{row.cpu_seconds:.1f}")
        table.add_row(task, *figures, f"{row.peak_memory_mib:.0f}", gpu)
    return table


def _tool() -> str:
    """The command `product1m`, with its folder if that is not on the PATH."""
    return "product1m" if shutil.which("product1m") else f"{Path(sys.executable).parent}/product1m"
