"""MLflow run of a pipeline run; SQLite in the output folder unless MLFLOW_TRACKING_URI is set."""

import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from product1m.errors import redacted
from product1m.registry.roles import EXPERIMENT
from product1m.telemetry.mlflow_client import talking_to_mlflow
from product1m.telemetry.mlflow_files import DATABASE, files_beside, follow_move, sqlite_uri
from product1m.telemetry.mlflow_sqlite import ready_store
from product1m.telemetry.pipeline_runs import (
    OUTPUT_TAG,
    PARENT_TAG,
    end_killed_runs,
    output_tag,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrackedRun:
    """The MLflow run that every step of a pipeline run logs to."""

    uri: str
    experiment_id: str
    experiment_created: int
    """Milliseconds since 1970; `uri` and this identify a tracking store."""
    run_id: str

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that make a step log to this run."""
        return {
            "MLFLOW_TRACKING_URI": self.uri,
            "MLFLOW_EXPERIMENT_ID": self.experiment_id,
            "MLFLOW_RUN_ID": self.run_id,
            "PRODUCT1M_PIPELINE_RUN": self.run_id,
        }

    def end(self, status: str, metrics: Mapping[str, float]) -> None:
        """Log the last metrics and end the run with an MLflow status."""
        from mlflow import MlflowClient

        with talking_to_mlflow("ending the run", self.uri):
            client = MlflowClient(self.uri)
            for name, value in metrics.items():
                client.log_metric(self.run_id, name, value)
            client.set_terminated(self.run_id, status)

    @contextlib.contextmanager
    def ended(self) -> Iterator[dict[str, float]]:
        """End the run with the block, and log the metrics that the block puts into the dict."""
        metrics: dict[str, float] = {}
        ending = "FAILED"
        try:
            yield metrics
            ending = "FINISHED"
        except KeyboardInterrupt:
            ending = "KILLED"
            raise
        finally:
            self.end(ending, metrics)

    def child(
        self, name: str, tags: Mapping[str, str], parameters: Mapping[str, Any]
    ) -> "TrackedRun":
        """Start a run that MLflow shows below this one."""
        from mlflow import MlflowClient

        with talking_to_mlflow("starting a run", self.uri):
            client = MlflowClient(self.uri)
            own = client.get_run(self.run_id).data.tags
            shared = {key: value for key, value in own.items() if key == OUTPUT_TAG}
            shared[PARENT_TAG] = self.run_id
            run = client.create_run(self.experiment_id, run_name=name, tags={**tags, **shared})
            for key, value in parameters.items():
                client.log_param(run.info.run_id, key, redacted(str(value)))
        return dataclasses.replace(self, run_id=run.info.run_id)

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        from mlflow import MlflowClient

        with talking_to_mlflow("setting tags", self.uri):
            client = MlflowClient(self.uri)
            for name, value in tags.items():
                client.set_tag(self.run_id, name, value)

    def attach(self, *paths: Path) -> None:
        """Upload files to the run."""
        from mlflow import MlflowClient

        with talking_to_mlflow("attaching files", self.uri):
            client = MlflowClient(self.uri)
            for path in paths:
                client.log_artifact(self.run_id, str(path))


def store_of(output: Path) -> str:
    """Address of the MLflow that a run into a folder uses."""
    return os.environ.get("MLFLOW_TRACKING_URI") or sqlite_uri(output / DATABASE)


def start_run(output: Path, tags: Mapping[str, str], name: str = "training") -> TrackedRun:
    """Start a run, or join the one in `MLFLOW_RUN_ID`.

    Runs that killed processes left RUNNING for this output folder are ended as KILLED; the caller
    holds the folder's lock.

    Raises TrackingError if the server in `MLFLOW_TRACKING_URI` cannot be reached.
    """
    from mlflow import MlflowClient

    uri = store_of(output)
    tags = {name: redacted(value) for name, value in tags.items()}
    logger.info("MLflow tracking at %s", uri)
    with talking_to_mlflow("starting a run", uri):
        ready_store(uri)
        follow_move(uri)
        client = MlflowClient(uri)
        joined = os.environ.get("MLFLOW_RUN_ID")
        if joined:
            run = client.get_run(joined)
            experiment = client.get_experiment(run.info.experiment_id)
            for tag, value in tags.items():
                client.set_tag(joined, tag, value)
        else:
            own_tags = {**tags, **output_tag(output)}
            experiment = _experiment(client, files_beside(uri))
            run = client.create_run(experiment.experiment_id, run_name=name, tags=own_tags)
            end_killed_runs(client, run)
    return TrackedRun(uri, experiment.experiment_id, experiment.creation_time, run.info.run_id)


def _experiment(client: Any, folder: str | None) -> Any:
    """The experiment of the pipeline; created if missing, even if another process does so too."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        try:  # a server has its own place for files, a database file has none
            client.create_experiment(EXPERIMENT, folder)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        experiment = client.get_experiment_by_name(EXPERIMENT)
    return experiment
