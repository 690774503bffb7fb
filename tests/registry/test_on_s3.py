"""Every way to a version's files, at a server on S3 whose presigned addresses lead nowhere."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from product1m.cli.app import app
from product1m.errors import RegistryError
from product1m.registry.roles import REVIEWER
from product1m.registry.version_files import read_evidence
from product1m.registry.versions import ModelVersion
from product1m.telemetry import mlflow_answer, mlflow_client
from tests.support.servers.mlflow_roles import server_with_roles
from tests.support.servers.mlflow_server import STORE, Server
from tests.support.servers.s3_server import S3Server
from tests.support.worlds.tiny_world import TinyArtifacts

pytestmark = [
    pytest.mark.usefixtures("asked_here"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # mlflow warns about itself
]


@pytest.fixture(scope="module")
def server(
    s3_server: S3Server,
    reviewer_keys: Path,
    mlflow_databases: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """An MLflow server that keeps its files on S3."""
    folder = tmp_path_factory.mktemp("server")
    with server_with_roles(folder, mlflow_databases, s3_server) as started:
        yield started


@pytest.fixture(autouse=True)
def nothing_downloaded_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of its own would not know that a server answers."""
    monkeypatch.setattr(mlflow_client, "_answering", set())


def product1m(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_reviewer_shows_compares_promotes_and_searches_through_the_server(
    server: Server, candidate: ModelVersion, made: TinyArtifacts, s3_server: S3Server
) -> None:
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo(STORE, s3_server.port)
    stored = s3_server.keys("mlflow")
    assert any(name.endswith("index.faiss") for name in stored)
    photo = str(made.root / "dataset" / "images" / "queries-9.jpg")
    with server.as_user(REVIEWER):
        assert "Gate: PASSED" in product1m("registry", "show", candidate.number)
        compared = json.loads(
            product1m("registry", "compare", candidate.number, candidate.number, "--json")
        )
        assert compared["gain"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
        promotion = ["--version", candidate.number, "--reason", "good", "--override-gate"]
        product1m("registry", "promote", *promotion)
        shown = product1m("search", photo, "--title", "Lumi rose cream")
    assert "gallery-" in shown


def test_direct_downloads_from_an_unreachable_store_end_with_its_address(
    server: Server,
    candidate: ModelVersion,
    s3_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(mlflow_client.DIRECT_DOWNLOADS, "true")
    with server.as_user(REVIEWER), pytest.raises(RegistryError) as failure:
        read_evidence(candidate)
    assert f"http://{STORE}:{s3_server.port}: MLflow gives this address" in str(failure.value)
    assert f"unset {mlflow_client.DIRECT_DOWNLOADS}" in str(failure.value)


def test_direct_downloads_work_if_the_store_can_be_reached(
    server: Server, candidate: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = socket.getaddrinfo
    monkeypatch.setenv(mlflow_client.DIRECT_DOWNLOADS, "true")
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *rest, **named: resolve(
            "127.0.0.1" if host == STORE else host, *rest, **named
        ),
    )
    with server.as_user(REVIEWER):
        evidence = read_evidence(candidate)
    assert evidence is not None
    assert len(evidence.ap) == 12  # the test queries


def test_a_server_that_never_answers_ends_a_download_with_its_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_answer, "ANSWER_S", 0.1)
    monkeypatch.setattr(mlflow_answer, "PAUSES_S", (0.0,))
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connects, says nothing
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        expected = rf"reading a\.json of models:/m/1 at {address}.*: no answer to try 2"
        with pytest.raises(RegistryError, match=expected):
            mlflow_client.download("models:/m/1", "a.json", tmp_path)
