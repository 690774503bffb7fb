"""What killed registrations, promotions and refreshes left: models that no version shows."""

import logging
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from product1m.registry.claims import PROCESS
from product1m.registry.roles import CATALOGUES, CHAMPIONS
from product1m.serving.packaging import NAME
from product1m.telemetry.mlflow_client import registry_mlflow, talking_to_registry
from product1m.telemetry.pipeline_runs import ATTEMPT_TAGS
from product1m.telemetry.processes import has_ended

logger = logging.getLogger(__name__)

PROMOTION_LASTS = timedelta(days=1)
"""After this time a promotion or refresh of another machine without a version counts as dead
(ours)."""


def remove_left_by_registrations() -> None:
    """Remove models that earlier attempts at this registration logged and did not register.

    Earlier attempts are runs for the same output folder or pipeline run as the active MLflow run.
    Only for a process that holds the lock of its output folder.
    """
    with talking_to_registry("looking for what killed registrations left") as client:
        active = registry_mlflow().active_run()
        own = client.get_run(active.info.run_id)
        attempts = {active.info.run_id: own}
        for tag in ATTEMPT_TAGS:
            if tag in own.data.tags:
                runs = _runs(client, own.info.experiment_id, tag, own.data.tags[tag])
                attempts |= {run.info.run_id: run for run in runs}
        ended = [
            run
            for run_id, run in attempts.items()
            if run_id == active.info.run_id or run.info.status in ("KILLED", "FAILED")
        ]
        _remove_models(client, own.info.experiment_id, ended)


def remove_left_by_promotions() -> None:
    """Remove models that killed promotions logged, and end their runs."""
    with talking_to_registry("looking for what killed promotions left") as client:
        _remove_left(client, CHAMPIONS, NAME, newest=1000)


def remove_left_by_refreshes(name: str) -> None:
    """Remove catalogues, which have this name, that killed refreshes logged, and end their runs.

    Refreshes are many, and each looks for what the ones before it left: the newest count.
    """
    with talking_to_registry("looking for what killed refreshes left") as client:
        _remove_left(client, CATALOGUES, name, newest=20)


def _remove_left(client: Any, experiment_name: str, model_name: str, newest: int) -> None:
    experiment = client.get_experiment_by_name(experiment_name)
    if experiment is None:
        return
    runs = client.search_runs([experiment.experiment_id], max_results=newest)
    dead = [run for run in runs if _is_dead(run)]
    _remove_models(client, experiment.experiment_id, dead, model_name)
    for run in dead:
        if run.info.status == "RUNNING":
            client.update_run(run.info.run_id, "KILLED")


def _is_dead(run: Any) -> bool:
    """Whether the promotion or refresh of a run has ended, or will never end."""
    process = run.data.tags.get(PROCESS, "")
    started = datetime.fromtimestamp(run.info.start_time / 1000, UTC)
    return has_ended(process) or datetime.now(UTC) - started > PROMOTION_LASTS


def _runs(client: Any, experiment: str, tag: str, value: str) -> list[Any]:
    quote = '"' if "'" in value else "'"
    filters = f"tags.`{tag}` = {quote}{value}{quote}"
    return list(client.search_runs([experiment], filters, max_results=1000))


def _remove_models(client: Any, experiment: str, runs: Iterable[Any], name: str = NAME) -> None:
    """Remove the models of runs that no version of a registered model shows."""
    for run in runs:
        run_id = run.info.run_id
        models = client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
        if not models:
            continue
        shown = {v.source for v in client.search_model_versions(f"run_id = '{run_id}'")}
        for model in models:
            if model.name == name and f"models:/{model.model_id}" not in shown:
                _remove(client, model)


def _remove(client: Any, model: Any) -> None:
    """Remove a model with its files; an account that may not leaves it to an administrator."""
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    logger.info("%s: a killed process left it, and no version shows it; removed", model.model_id)
    try:
        # The files first: what MLflow calls deleted is not found again.
        get_artifact_repository(model.artifact_location).delete_artifacts()
        client.delete_logged_model(model.model_id)
    except (MlflowException, OSError) as error:
        logger.info(
            "%s: this account may not remove it (%s); an administrator can delete the model and "
            "run `mlflow gc`", model.model_id, error,
        )  # fmt: skip
