"""The training pipeline on this machine: `kfp.local`, MLflow on SQLite, no cluster."""

import hashlib
import logging
import os
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kfp import dsl, local
from kfp.dsl.base_component import BaseComponent

import product1m
from pipelines.console import StepTime, Transcript, transcript
from pipelines.dataset import data_parameters
from pipelines.processes import only_run, steps_end_with_run
from pipelines.summary import RunSummary, summarize, verified
from pipelines.tracking import TrackedRun, start_run
from pipelines.training import training_pipeline
from product1m.artifacts import sha256_of
from product1m.config import Config
from product1m.errors import PipelineError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalRun:
    """What to run, on what, and where to."""

    config: Config
    preset: str
    dataset: str
    output: Path
    backgrounds: str = ""
    """Folder of background photos; the data set's own `backgrounds/` if empty and there."""
    use_cache: bool = True


def run_training(run: LocalRun) -> RunSummary:
    """Run the pipeline and write `summary.json`.

    Raises DatasetError or PipelineError; the latter names the step that failed and why.
    """
    arguments = data_parameters(run.dataset, run.backgrounds)
    output = run.output.expanduser().resolve()
    _refuse_rewritten_paths(output, *arguments.values())
    work = output / "work"
    work.mkdir(parents=True, exist_ok=True)
    with only_run(output, work), steps_end_with_run():
        tracked = start_run(output, {"preset": run.preset, **arguments})
        ending = "FAILED"
        metrics: dict[str, float] = {}
        try:
            steps, artifacts = _run_graph(run, arguments, output, tracked)
            summary = summarize(run.preset, arguments, steps, verified(artifacts), tracked)
            metrics = summary.cached_metrics
            summary.write(output / "summary.json")
            ending = "FINISHED"
            return summary
        except KeyboardInterrupt:
            ending = "KILLED"
            raise
        finally:
            tracked.end(ending, metrics)


def source_digest() -> str:
    """SHA-256 over the code that decides what a step computes."""
    package = Path(product1m.__file__).parent
    components = Path(__file__).parent.parent / "components"
    digest = hashlib.sha256()
    for root in (package, components):
        for path in sorted(root.rglob("*.*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(root)}\0{sha256_of(path)}\n".encode())
    return digest.hexdigest()


def _run_graph(
    run: LocalRun,
    arguments: Mapping[str, str],
    output: Path,
    tracked: TrackedRun,
) -> tuple[dict[str, StepTime], dict[str, dsl.Artifact]]:
    pipeline = training_pipeline(run.config)
    store = f"{source_digest()} {tracked.uri} {tracked.experiment_created}"
    warnings.filterwarnings("ignore", module=r"kfp\.")
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=str(output / "pipeline"),
        enable_caching=run.use_cache,
        cache_root=str(output / "cache" / hashlib.sha256(store.encode()).hexdigest()[:16]),
    )
    os.environ |= {
        **tracked.environment,
        "PRODUCT1M_WORK": str(output / "work"),
        "PYTHONUNBUFFERED": "1",
    }
    log = output / "run.log"
    with transcript(log, _shown_names(pipeline)) as lines:
        try:
            task = pipeline(**arguments)
        except (RuntimeError, ValueError) as error:
            raise _failure(lines, error, log) from error
    return lines.steps, task.outputs


def _shown_names(pipeline: BaseComponent) -> dict[str, str]:
    tasks = pipeline.pipeline_spec.root.dag.tasks
    return {name: task.task_info.name.replace("-", "_") for name, task in tasks.items()}


def _failure(lines: Transcript, error: Exception, log: Path) -> PipelineError:
    step = lines.failed_step or "the pipeline"
    reason = lines.error or str(error)
    return PipelineError(f"{step} failed: {reason}\nIts whole output: {log}")


def _refuse_rewritten_paths(*paths: object) -> None:
    """kfp.local replaces `python3` anywhere in a task's arguments by the interpreter's path."""
    for path in paths:
        if "python3" in str(path):
            raise PipelineError(
                f"{path}: kfp.local would rewrite `python3` in this path; choose one without it "
                f"(interpreter: {sys.executable})"
            )
