"""What a killed pod left open in MLflow is ended by a command that sees how its run ended."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from pipelines.__main__ import app
from pipelines.cluster.api import Cluster
from pipelines.cluster.open_runs import end_open_runs
from product1m.registry.roles import EXPERIMENT
from product1m.telemetry.pipeline_runs import PARENT_TAG, PIPELINE_RUN_TAG
from product1m.telemetry.signs_of_life import KIND_TAG, PIPELINE
from tests.support.servers.kfp_server import KfpServer


class Tracked:
    """MLflow runs as a pipeline run leaves them whose pod was killed in `ingestion`."""

    def __init__(self, folder: Path) -> None:
        self.uri = f"sqlite:///{folder / 'mlflow.db'}"
        self.client = MlflowClient(self.uri)
        self._experiment = self.client.create_experiment(EXPERIMENT, (folder / "files").as_uri())

    def leave_open(self, pipeline_run: str) -> tuple[str, str]:
        """Ids of the run of the pipeline run and of the run of its step."""
        tags = {PIPELINE_RUN_TAG: pipeline_run}
        parent = self.client.create_run(self._experiment, tags=tags | {KIND_TAG: PIPELINE})
        above = tags | {PARENT_TAG: parent.info.run_id}
        step = self.client.create_run(self._experiment, tags=above)
        return parent.info.run_id, step.info.run_id

    def statuses(self, ids: tuple[str, str]) -> tuple[str, str]:
        """Status of both."""
        parent, step = (self.client.get_run(each).info.status for each in ids)
        return parent, step


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Tracked:
    return Tracked(tmp_path_factory.mktemp("mlflow"))


@pytest.fixture
def tracked(store: Tracked, monkeypatch: pytest.MonkeyPatch) -> Tracked:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    return store


@pytest.mark.parametrize(
    ("scenario", "expected"),
    [
        ("out-of-memory", ("FAILED", "KILLED")),
        ("stopped", ("KILLED", "KILLED")),
        ("cached", ("FINISHED", "KILLED")),
        ("lost-pod-working", ("RUNNING", "RUNNING")),
    ],
)
def test_show_ends_the_mlflow_runs_of_a_recorded_run_that_is_over(
    kfp_server: KfpServer, tracked: Tracked, scenario: str, expected: tuple[str, str]
) -> None:
    run_id = kfp_server.world.replay(scenario)
    ids, others = tracked.leave_open(run_id), tracked.leave_open("of-another-cluster")
    shown = CliRunner().invoke(app, ["runs", "show", run_id]).output
    assert tracked.statuses(ids) == expected
    assert tracked.statuses(others) == ("RUNNING", "RUNNING")
    message = (
        f"note         MLflow: 2 open runs of {run_id} ended, the pipeline run as {expected[0]}"
    )
    assert (message in shown) == (expected[0] != "RUNNING")


def test_they_end_when_the_pipeline_run_ended(kfp_server: KfpServer, tracked: Tracked) -> None:
    run_id = kfp_server.world.replay("stopped")
    parent, _ = tracked.leave_open(run_id)
    (message,) = end_open_runs(Cluster(kfp_server.url))
    assert run_id in message, "found without its id"
    finished = kfp_server.world.recorded_runs[run_id]["finished_at"]
    ended = tracked.client.get_run(parent).info.end_time / 1000
    assert datetime.fromtimestamp(ended, UTC) == datetime.fromisoformat(finished)
    assert end_open_runs(Cluster(kfp_server.url)) == []


def test_stop_waits_for_the_end_and_submit_looks_at_all_earlier_runs(
    kfp_server: KfpServer, tracked: Tracked
) -> None:
    kfp_server.world.frames = [("RUNNING", {"ingestion": "RUNNING"})]
    submit = ["submit", "--preset", "sample", "--dataset", "s3://product1m/sample"]
    submit += ["--dataset-digest", "monday", "--no-follow"]
    assert CliRunner().invoke(app, submit).exit_code == 0
    (run_id,) = kfp_server.world.runs
    first = tracked.leave_open(run_id)
    assert CliRunner().invoke(app, submit).exit_code == 0
    assert tracked.statuses(first) == ("RUNNING", "RUNNING"), "it has not ended"
    shown = CliRunner().invoke(app, ["runs", "stop", run_id]).output
    assert f"2 open runs of {run_id} ended, the pipeline run as KILLED" in shown
    assert tracked.statuses(first) == ("KILLED", "KILLED")
    second = kfp_server.world.replay("out-of-memory")
    ids = tracked.leave_open(second)
    result = CliRunner().invoke(app, submit)
    assert f"MLflow: 2 open runs of {second} ended" in result.stderr
    assert tracked.statuses(ids) == ("FAILED", "KILLED")


def test_an_mlflow_that_refuses_is_named_and_stops_nothing(
    kfp_server: KfpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run_id = kfp_server.world.replay("stopped")
    shown = CliRunner().invoke(app, ["runs", "show", run_id])
    assert shown.exit_code == 0
    assert "MLflow runs of killed pods may stay RUNNING: looking for open runs" in shown.output
    assert "http://127.0.0.1:9" in shown.output
