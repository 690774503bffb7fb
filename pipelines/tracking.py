"""The MLflow run of a pipeline run: SQLite below the output folder unless a server is named."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import RunStatus

EXPERIMENT = "product1m-training"


@dataclass(frozen=True)
class TrackedRun:
    """The run that every step of a pipeline run joins."""

    uri: str
    experiment_id: str
    experiment_created: int
    """Milliseconds; with `uri` it tells one tracking store from another."""
    run_id: str

    @property
    def environment(self) -> dict[str, str]:
        """What a step's process needs to join."""
        return {
            "MLFLOW_TRACKING_URI": self.uri,
            "MLFLOW_EXPERIMENT_ID": self.experiment_id,
            "MLFLOW_RUN_ID": self.run_id,
        }

    def end(self, status: str, metrics: Mapping[str, float]) -> None:
        """Close the run with a status of MLflow, its last metrics first."""
        client = MlflowClient(self.uri)
        for name, value in metrics.items():
            client.log_metric(self.run_id, name, value)
        client.set_terminated(self.run_id, status)


def start_run(output: Path, tags: Mapping[str, str]) -> TrackedRun:
    """Open the run; one that `MLFLOW_RUN_ID` names is joined."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{output / 'mlflow.db'}"
    client = MlflowClient(uri)
    joined = os.environ.get("MLFLOW_RUN_ID")
    if joined:
        run = client.get_run(joined)
        client.update_run(joined, RunStatus.to_string(RunStatus.RUNNING))
        experiment = client.get_experiment(run.info.experiment_id)
    else:
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            location = None if "MLFLOW_TRACKING_URI" in os.environ else output / "mlflow-artifacts"
            client.create_experiment(EXPERIMENT, location and location.as_uri())
            experiment = client.get_experiment_by_name(EXPERIMENT)
        run = client.create_run(experiment.experiment_id, run_name="training")
    for name, value in tags.items():
        client.set_tag(run.info.run_id, name, value)
    return TrackedRun(uri, experiment.experiment_id, experiment.creation_time, run.info.run_id)
