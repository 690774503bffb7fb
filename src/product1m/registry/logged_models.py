"""Models that the registry logs itself, in experiments of their own: champions and catalogues."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from product1m.telemetry.mlflow_client import registry_mlflow
from product1m.telemetry.mlflow_files import files_beside


@contextmanager
def logged_model(
    client: Any, experiment_id: str, name: str, run_name: str, tags: Mapping[str, str]
) -> Iterator[Any]:
    """A logged model with a run; both are finished if the block ends without an error."""
    run = client.create_run(experiment_id, run_name=run_name, tags=dict(tags))
    logged = client.create_logged_model(experiment_id, name, run.info.run_id)
    status, ended = "FAILED", "FAILED"
    try:
        yield logged
        status, ended = "READY", "FINISHED"
    finally:
        client.finalize_logged_model(logged.model_id, status)
        client.update_run(run.info.run_id, ended)  # `set_terminated` prints


def own_experiment(client: Any, name: str, neighbor: Callable[[], str]) -> str:
    """The id of the experiment, created if missing; at a server `set-up-roles` has made it.

    Args:
        client: MLflow's.
        name: of the experiment.
        neighbor: artifact location of another experiment. A database that is neither a server's nor
            SQLite has no place for artifacts, so they go next to that one's.
    """
    known = client.get_experiment_by_name(name)
    if known:
        return str(known.experiment_id)
    uri = registry_mlflow().get_tracking_uri()
    location = files_beside(uri)
    if location is None and not uri.startswith("http"):
        location = f"{neighbor().rstrip('/')}-{name}"
    return str(client.create_experiment(name, location))
