"""A silent MLflow server is reported soon, with its address."""

import socket
from collections.abc import Iterator

import pytest
from mlflow import MlflowClient

from product1m.errors import RegistryError, TrackingError
from product1m.jobs.retries import is_temporary
from product1m.telemetry import mlflow_answer
from product1m.telemetry.mlflow_client import talking_to_mlflow, talking_to_registry


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a server that takes connections and says nothing."""
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    monkeypatch.delenv("PRODUCT1M_PIPELINE_RUN", raising=False)
    monkeypatch.setattr(mlflow_answer, "ANSWER_S", 0.05)
    monkeypatch.setattr(mlflow_answer, "PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr(mlflow_answer, "STEP_PAUSES_S", (0.0,))
    with socket.create_server(("127.0.0.1", 0)) as server:
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        yield uri


def test_the_waits_add_up_to_less_than_a_minute() -> None:
    pauses = mlflow_answer.PAUSES_S
    assert (len(pauses) + 1) * mlflow_answer.ANSWER_S + sum(pauses) < 60


def test_a_command_names_the_silent_server(silent: str) -> None:
    expected = f"^starting a run at MLflow, {silent}: no answer to try 3: nothing within"
    with (
        pytest.raises(TrackingError, match=expected) as caught,
        talking_to_mlflow("starting a run"),
    ):
        MlflowClient().create_experiment("never asked")
    assert is_temporary(caught.value), "a step is run again"
    with (
        pytest.raises(RegistryError, match=f"listing models at {silent}.*: no answer"),
        talking_to_registry("listing models") as client,
    ):
        client.search_registered_models()


def test_a_step_logs_what_it_waits_for(
    silent: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PRODUCT1M_PIPELINE_RUN", "run-1")
    with pytest.raises(TrackingError, match="to try 2: "), talking_to_mlflow("logging metrics"):
        pass
    assert f"MLflow at {silent} does not answer (nothing within 0.05 s)" in caplog.text


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("http://[bad", "MLFLOW_TRACKING_URI=.*: not an address"),
        ("mssql+pyodbc://ann@host/mlflow", "driver pyodbc is not installed here; install it"),
    ],
)
def test_an_address_that_nothing_here_can_open_is_an_error(
    monkeypatch: pytest.MonkeyPatch, uri: str, reason: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(TrackingError, match=reason), talking_to_mlflow("starting a run"):
        MlflowClient().search_experiments()
    refused = pytest.raises((RegistryError, TrackingError), match=reason)
    with refused, talking_to_registry("listing models") as client:
        client.search_registered_models()


def test_a_refused_connection_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with (
        pytest.raises(TrackingError, match=r"to try 1: ConnectionError: .*refused"),
        talking_to_mlflow("logging metrics", "http://127.0.0.1:9"),
    ):
        pass
