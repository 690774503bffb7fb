"""Run a graph with `kfp.local`: one process or container per task, results cached."""

import os
import sys
import warnings
from collections.abc import Mapping
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from kfp import local
from kfp.dsl.base_component import BaseComponent

from pipelines.local.console import StepTime, Transcript, transcript
from pipelines.local.containers import Containers
from pipelines.local.content_cache import use_content_cache
from pipelines.local.leftovers import cleaned_up
from pipelines.local.step_copies import steps_start_at_once
from pipelines.local.webhook import watched
from product1m.errors import PipelineError
from product1m.telemetry.environment import environment_set
from product1m.telemetry.processes import PARENT

LOG = "run.log"
STEP_PYTHON = {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": ""}
"""Print lines at once; keep compiled Python files, so that the next step imports faster."""


class StepError(PipelineError):
    """A task of a local run failed."""

    def __init__(self, step: str, reason: str, log: Path) -> None:
        super().__init__(f"{step} failed: {reason}\nFull output: {log}")
        self.step = step
        self.reason = reason


def run_graph(
    pipeline: BaseComponent,
    arguments: Mapping[str, str],
    output: Path,
    environment: Mapping[str, str],
    cache: str,
    containers: Containers | None = None,
    expected_s: Mapping[str, float] | None = None,
) -> tuple[dict[str, StepTime], dict[str, Any]]:
    """Run a graph; return the time of each task and the graph's outputs.

    Artifacts go below `output/pipeline`, everything printed to `output/run.log`. Unchanged tasks
    take their results from the cache of the name `cache`; with an empty name every task runs. What
    an earlier graph left unfinished there is removed first.
    With `containers` every task runs in its image, else in a process of this environment. With
    `expected_s`, the seconds that tasks should take, each start says how long the rest takes.
    Raises StepError with the name of the failed task and its error message.
    """
    _refuse_rewritten_paths(output, *arguments.values())
    _prepare(output, environment, cache, containers)
    log = output / LOG
    parent = {} if containers else {PARENT: str(os.getpid())}
    names, failure = shown_names(pipeline), containers.failure if containers else str
    with (
        cleaned_up(output),
        warnings.catch_warnings(),
        environment_set({**environment, **STEP_PYTHON, **parent}),
        steps_start_at_once(last=next(reversed(names.values()), "")),
        transcript(log, names, failure, expected_s) as lines,
        watched(f"the run in {output}", lambda: lines.last_progress),
    ):
        # kfp.local warns that it ignores images and display names.
        warnings.filterwarnings("ignore", module=r"kfp\.")
        try:
            task = pipeline(**arguments)
        except (RuntimeError, ValueError) as error:
            raise _failure(lines, error, log) from error
    return lines.steps, task.outputs


def _prepare(
    output: Path, environment: Mapping[str, str], cache: str, containers: Containers | None
) -> None:
    """Set where kfp.local runs tasks, writes and looks for results."""
    local.init(
        containers.runner(environment) if containers else local.SubprocessRunner(use_venv=False),
        pipeline_root=str(output / "pipeline"),
        enable_caching=bool(cache),
        cache_root=str(output / "cache" / cache),
    )
    if cache:
        use_content_cache(str(output / "cache" / cache), output)


def shown_names(pipeline: BaseComponent) -> dict[str, str]:
    """Task to its shown name, as in `feature_extraction/train`; in topological order."""
    tasks = pipeline.pipeline_spec.root.dag.tasks
    order = TopologicalSorter({name: task.dependent_tasks for name, task in tasks.items()})
    return {name: tasks[name].task_info.name.replace("-", "_") for name in order.static_order()}


def dependencies(pipeline: BaseComponent) -> dict[str, list[str]]:
    """Task to those that it depends on, by their shown names; in topological order."""
    names = shown_names(pipeline)
    tasks = pipeline.pipeline_spec.root.dag.tasks
    return {
        shown: [names[other] for other in tasks[name].dependent_tasks]
        for name, shown in names.items()
    }


def _failure(lines: Transcript, error: Exception, log: Path) -> StepError:
    reason = lines.error.removeprefix("product1m.errors.") or str(error)
    return StepError(lines.failed_step or "the pipeline", reason, log)


def _refuse_rewritten_paths(*paths: object) -> None:
    """Refuse paths with `python3`: kfp.local replaces it in arguments by the interpreter's path."""
    for path in paths:
        if "python3" in str(path):
            raise PipelineError(
                f"{path}: kfp.local would replace `python3` in this path; use a path without it "
                f"(interpreter: {sys.executable})"
            )
