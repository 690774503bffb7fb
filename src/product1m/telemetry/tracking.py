"""MLflow runs: a step joins the run the platform or the runner set, and logs under its own name.

Where `MLFLOW_TRACKING_URI` is not set nothing is logged and one line says so. What a step computed
is safe in its artifact first, so no work is lost if the tracking server is away.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from product1m.config import StepConfig
from product1m.errors import TrackingError, redacted
from product1m.telemetry.logs import step_logs
from product1m.telemetry.mlflow_client import talking_to_mlflow
from product1m.telemetry.mlflow_sqlite import ready_store
from product1m.telemetry.pipeline_runs import (
    OUTPUT_TAG,
    ParentRun,
    end_killed_runs,
    has_parent,
    output_tag,
)
from product1m.telemetry.provenance import UNKNOWN, pipeline_run

logger = logging.getLogger(__name__)

MAX_TAG_LENGTH = 5000
"""Longest value of a tag (MLflow allows 8,000)."""


class StepRun(Protocol):
    """What a step can report; names come out as `step/name` or `step/part/name`."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log scalars; `step` is the position on a curve."""

    def log_file(self, path: Path) -> None:
        """Attach a picture, a report or a table."""

    def end_killed_runs(self) -> None:
        """End the runs of killed processes that wrote to the same folder.

        Only for a process that holds the folder's lock: another's run would be ended too.
        """


class _Untracked:
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Nowhere to log to."""

    def log_file(self, path: Path) -> None:
        """Nowhere to log to."""

    def end_killed_runs(self) -> None:
        """There are no runs."""


class _MlflowRun:
    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        import mlflow

        named = {
            f"{self._prefix}/{name.replace('@', '_at_')}": float(value)
            for name, value in metrics.items()
        }
        with talking_to_mlflow("logging metrics"):
            mlflow.log_metrics(named, step=step)

    def log_file(self, path: Path) -> None:
        import mlflow

        with talking_to_mlflow(f"attaching {path.name}"):
            mlflow.log_artifact(str(path), self._prefix)

    def end_killed_runs(self) -> None:
        import mlflow

        with talking_to_mlflow("ending the runs of killed processes"):
            run = mlflow.active_run()
            if OUTPUT_TAG in run.data.tags:
                end_killed_runs(mlflow.MlflowClient(), run)


@contextmanager
def step_run(
    step: str, config: StepConfig, part: str = "", folder: Path | None = None
) -> Iterator[StepRun]:
    """Join `MLFLOW_RUN_ID`, or start a run named after the step; the section becomes parameters.

    A run that is started here has a tag with the host and the `folder` that the step writes.

    On a cluster the steps' runs are children of one run for the pipeline run (`pipeline_runs`).
    With `MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=true` MLflow samples processor, memory and GPU under
    `system/<step>/`. A step that fails leaves its name and its error as tags of the run.
    """
    tags = output_tag(folder) if folder else {}
    with step_logs(step, part), _tracked(step, config, part, tags) as run:
        yield run


@contextmanager
def _tracked(
    step: str, config: StepConfig, part: str, tags: Mapping[str, str]
) -> Iterator[StepRun]:
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        logger.info("%s: MLFLOW_TRACKING_URI is not set, nothing is logged to MLflow", step)
        yield _Untracked()
        return
    import mlflow

    prefix = f"{step}/{part}" if part else step
    run_id = os.environ.get("MLFLOW_RUN_ID")
    # Steps that share a run would write each other's curves.
    mlflow.set_system_metrics_node_id(prefix)
    parent: ParentRun | None = None
    try:
        with talking_to_mlflow("starting a run"):
            _start(step, prefix, run_id, config, tags)
        if not run_id and has_parent():
            parent = _parent_run(prefix)
        yield _MlflowRun(prefix)
    except BaseException as failure:
        try:
            _tag_failure(prefix, failure)
            ended_from_outside = isinstance(failure, KeyboardInterrupt | SystemExit)
            _end_run("KILLED" if ended_from_outside else "FAILED", parent)
        except TrackingError as error:  # the step's own error matters more
            logger.warning("%s", error)
        raise
    else:
        _end_run("FINISHED", parent)
    finally:
        if run_id:  # mlflow forgets it when a run ends, and the next step would miss it
            os.environ["MLFLOW_RUN_ID"] = run_id


def _start(
    step: str, prefix: str, run_id: str | None, config: StepConfig, tags: Mapping[str, str]
) -> None:
    import mlflow

    ready_store(os.environ["MLFLOW_TRACKING_URI"])
    if run_id:
        mlflow.start_run(run_id=run_id)
    else:
        mlflow.start_run(run_name=prefix, tags=dict(tags))
    if pipeline_run() != UNKNOWN:
        mlflow.set_tag("pipeline_run", pipeline_run())
    mlflow.log_params(
        {
            f"{step}.{name}": redacted(value) if isinstance(value, str) else value
            for name, value in config.model_dump(mode="json").items()
        }
    )


def _tag_failure(step: str, failure: BaseException) -> None:
    import mlflow

    if mlflow.active_run():
        error = redacted(f"{type(failure).__name__}: {failure}")[:MAX_TAG_LENGTH]
        with talking_to_mlflow("tagging the failure"):
            mlflow.set_tags({"failed_step": step, "error": error})


def _parent_run(step: str) -> ParentRun | None:
    """The run above the active one; None, with a warning, where MLflow refuses it."""
    import mlflow

    try:
        with talking_to_mlflow("looking for the pipeline's run"):
            return ParentRun(mlflow.MlflowClient(), mlflow.active_run(), step)
    except TrackingError as error:  # the step's own run is open and holds all that it logs
        logger.warning("%s", error)
        return None


def _end_run(status: str, parent: ParentRun | None) -> None:
    import mlflow

    if mlflow.active_run():
        with talking_to_mlflow("ending the run"):
            mlflow.end_run(status)
            if parent:
                parent.end(status)
