"""A step retries after temporary errors, and after no others."""

from collections.abc import Callable
from pathlib import Path

import pytest

from product1m.errors import (
    DatasetError,
    LockedError,
    Product1MError,
    StorageError,
    TrackingError,
)
from product1m.jobs.retries import is_temporary, with_retries
from product1m.storage.locks import only_writer
from product1m.storage.opening import open_store
from product1m.telemetry.mlflow_client import talking_to_mlflow
from tests.support.servers.ports import free_port
from tests.support.worlds.other_process import holding


def mlflow_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request to a server that is not there."""
    import mlflow

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with talking_to_mlflow("starting a run"):
        mlflow.MlflowClient(f"http://127.0.0.1:{free_port()}").search_experiments()


def s3_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same of an object store."""
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    open_store("s3://bucket/prefix").read("name")


@pytest.mark.parametrize("lost", [mlflow_away, s3_away])
def test_a_server_that_is_away_may_come_back(
    lost: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises((TrackingError, StorageError)) as raised:
        lost(monkeypatch)
    assert is_temporary(raised.value)


def test_the_attempt_before_on_a_lost_node_may_still_end(tmp_path: Path) -> None:
    with (
        holding(tmp_path / "work"),
        pytest.raises(LockedError) as raised,
        only_writer(tmp_path / "work"),
    ):
        pytest.fail("another process holds it")
    assert is_temporary(raised.value)


def test_an_attempt_after_an_outage_gives_the_result() -> None:
    outcomes: list[Exception | str] = [TrackingError("away"), TrackingError("away"), "done"]
    pauses: list[float] = [0.0, 0.0]

    def work() -> str:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome from ConnectionError("refused")
        return outcome

    assert with_retries("indexing", work, pauses) == "done"
    assert outcomes == []


def test_after_the_last_pause_the_failure_stands() -> None:
    attempts = []

    def work() -> None:
        attempts.append(1)
        raise StorageError("away") from TimeoutError()

    with pytest.raises(StorageError, match="away"):
        with_retries("indexing", work, [0.0, 0.0])
    assert len(attempts) == 3


@pytest.mark.parametrize(
    "error", [DatasetError("a list with four fields"), TrackingError("403, permission denied")]
)
def test_what_will_not_pass_is_raised_at_once(error: Product1MError) -> None:
    attempts = []

    def work() -> None:
        attempts.append(1)
        raise error

    with pytest.raises(type(error)):
        with_retries("indexing", work, [0.0, 0.0])
    assert attempts == [1]
