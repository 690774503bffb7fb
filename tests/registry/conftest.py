"""Fixtures of the registry's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from product1m.registry import champion_files
from product1m.registry.roles import PIPELINE
from product1m.registry.versions import ModelVersion
from tests.support.servers.mlflow_roles import server_with_roles
from tests.support.servers.mlflow_server import Server
from tests.support.worlds.registered_model import LENIENT, ask_here, run_registration
from tests.support.worlds.tiny_world import TinyArtifacts


@pytest.fixture(scope="module")
def asked_here() -> Iterator[None]:
    """Models answer in this process: a process of their own takes seconds to import everything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(champion_files, "ask_apart", ask_here)
        yield


@pytest.fixture(scope="module")
def server(
    reviewer_keys: Path, mlflow_databases: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server where the roles were set up, and a user without any."""
    with server_with_roles(tmp_path_factory.mktemp("server"), mlflow_databases) as started:
        yield started


@pytest.fixture(scope="module")
def candidate(
    server: Server, made: TinyArtifacts, tmp_path_factory: pytest.TempPathFactory
) -> ModelVersion:
    """Registered over HTTP by the pipeline's account, at the server of the test's module."""
    with server.as_user(PIPELINE):
        return run_registration(made, tmp_path_factory.mktemp("candidate") / "out", LENIENT)
