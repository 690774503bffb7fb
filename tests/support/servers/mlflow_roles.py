"""A real MLflow server on which the accounts of the pipeline and of the reviewer were set up."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from typer.testing import CliRunner

from product1m.cli.app import app
from product1m.registry.access import Identity, ensure_user
from product1m.registry.roles import CATALOGUE, PIPELINE, REVIEWER
from tests.support.servers.mlflow_server import DATABASES, PASSWORDS, Server, running_server
from tests.support.servers.s3_server import S3Server

OUTSIDER = "outsider"
"""A user without a role."""


@contextmanager
def server_with_roles(
    folder: Path, databases: Path, s3: S3Server | None = None
) -> Iterator[Server]:
    """Start a server on copies of the databases of the fixture `mlflow_databases`."""
    for name in DATABASES:
        shutil.copy(databases / name, folder)
    with running_server(folder, s3) as started:
        yield started


def make_databases(folder: Path) -> None:
    """Set up the roles at a new server, and one user without any; keep its databases."""
    with running_server(folder) as started, started.as_user("admin"):
        set_up_roles()
        ensure_user(Identity(OUTSIDER, PASSWORDS[OUTSIDER]))


def set_up_roles() -> str:
    """As a Kubernetes Job does it: names and passwords from the environment; what it printed."""
    result = CliRunner().invoke(
        app,
        ["registry", "set-up-roles"],
        env={
            "PRODUCT1M_PIPELINE_PASSWORD": PASSWORDS[PIPELINE],
            "PRODUCT1M_REVIEWER_PASSWORD": PASSWORDS[REVIEWER],
            "PRODUCT1M_CATALOGUE_PASSWORD": PASSWORDS[CATALOGUE],
        },
        catch_exceptions=False,
    )
    assert result.exit_code == 0, result.output
    return result.output
