"""MLflow runs that a killed pod left open, ended by what the pipeline API says of their run.

A step ends its own MLflow run and, if it fails, that of its pipeline run. A pod that somebody
stops, that is killed for memory or lost with its node cannot. Steps do not know whether another
pipeline run is over; a user who may ask the pipeline API does.
"""

import os
from datetime import datetime
from typing import Any

import kfp_server_api as api

from pipelines.cluster.api import Cluster, ClusterError, NotFoundError
from pipelines.cluster.outcome import URI_VARIABLE
from pipelines.cluster.tasks import FINAL_STATES, ended_at, run_state
from product1m.errors import TrackingError
from product1m.registry.roles import EXPERIMENT
from product1m.telemetry.mlflow_client import talking_to_mlflow
from product1m.telemetry.pipeline_runs import PIPELINE_RUN_TAG
from product1m.telemetry.signs_of_life import KIND_TAG, PIPELINE

STATUS = {"SUCCEEDED": "FINISHED", "FAILED": "FAILED", "CANCELED": "KILLED", "SKIPPED": "KILLED"}
"""State of a pipeline run to the status of its MLflow run."""
MAX_RUNS = 1000


def end_open_runs(cluster: Cluster, run_id: str = "") -> list[str]:
    """End the open MLflow runs of pipeline runs that are over; a message for each of these.

    Does nothing without `MLFLOW_TRACKING_URI`. What MLflow or the cluster refuse is a message too.

    Args:
        cluster: knows the pipeline runs.
        run_id: of one pipeline run; empty for all that have an open MLflow run.
    """
    uri = os.environ.get(URI_VARIABLE, "")
    if not uri:
        return []
    try:
        with talking_to_mlflow("looking for open runs", uri):
            by_pipeline_run = _open_runs(uri, run_id)
        endings = [_end(cluster, uri, name, runs) for name, runs in by_pipeline_run.items()]
    except (TrackingError, ClusterError) as error:
        return [f"MLflow runs of killed pods may stay RUNNING: {error}"]
    return [message for message in endings if message]


def _open_runs(uri: str, run_id: str) -> dict[str, list[Any]]:
    """Id of a pipeline run to its MLflow runs that have no end."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT))
    if experiment is None:
        return {}
    which = f" and tags.{PIPELINE_RUN_TAG} = '{run_id}'" if run_id else ""
    is_open = "attributes.status = 'RUNNING'"
    runs = client.search_runs([experiment.experiment_id], is_open + which, max_results=MAX_RUNS)
    by_pipeline_run: dict[str, list[Any]] = {}
    for run in runs:
        name = run.data.tags.get(PIPELINE_RUN_TAG, "")
        if name and name != run.info.run_id:  # a local run is its own pipeline run
            by_pipeline_run.setdefault(name, []).append(run)
    return by_pipeline_run


def _end(cluster: Cluster, uri: str, run_id: str, open_runs: list[Any]) -> str:
    """End these MLflow runs if the pipeline run is over; what was done."""
    from mlflow import MlflowClient

    try:
        run: api.V2beta1Run = cluster.call(
            "reading the run", cluster.runs.run_service_get_run, run_id
        )
    except NotFoundError:  # of another cluster
        return ""
    state = run_state(run)
    if state not in FINAL_STATES:
        return ""
    status = STATUS.get(state, "FAILED")
    with talking_to_mlflow(f"ending the runs of {run_id}", uri):
        client = MlflowClient(uri)
        for open_run in open_runs:
            is_parent = open_run.data.tags.get(KIND_TAG) == PIPELINE
            ending = status if is_parent else "KILLED"
            client.set_terminated(open_run.info.run_id, ending, _milliseconds(ended_at(run)))
    return f"MLflow: {len(open_runs)} open runs of {run_id} ended, the pipeline run as {status}"


def _milliseconds(moment: datetime | None) -> int | None:
    return int(moment.timestamp() * 1000) if moment else None
