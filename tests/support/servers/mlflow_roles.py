"""A real MLflow server on which the accounts of the pipeline and of the reviewer were set up."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from product1m.registry.access import Identity, set_up_roles
from product1m.registry.roles import PIPELINE, REVIEWER
from tests.support.servers.mlflow_server import PASSWORDS, Server, running_server
from tests.support.worlds.registered_model import LENIENT, models_of


@contextmanager
def server_with_roles(folder: Path) -> Iterator[Server]:
    """Start the server, set up the roles as the job `mlflow-roles` does."""
    with running_server(folder) as started:
        with started.as_user("admin"):
            set_up_roles(
                models_of(LENIENT),
                Identity(PIPELINE, PASSWORDS[PIPELINE]),
                Identity(REVIEWER, PASSWORDS[REVIEWER]),
            )
        yield started
