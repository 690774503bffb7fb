"""What a step logs to MLflow, read from a real SQLite store; progress without a terminal."""

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from product1m.config import IndexingConfig
from product1m.errors import TrackingError
from product1m.telemetry.progress import track
from product1m.telemetry.tracking import step_run
from tests.support.clocks import replace_clock


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A tracking store and an experiment in it."""
    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    client = MlflowClient(uri)
    return uri, client.create_experiment("tests", (folder / "artifacts").as_uri())


@pytest.fixture
def run_id(store: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """A run that a platform opened for the step."""
    uri, experiment = store
    run = MlflowClient(uri).create_run(experiment)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    return str(run.info.run_id)


def test_a_step_joins_the_run_and_logs_under_its_own_name(
    store: tuple[str, str], run_id: str, tmp_path: Path
) -> None:
    (tmp_path / "curve.png").write_bytes(b"picture")
    with step_run("indexing", IndexingConfig(probes=3)) as run:
        run.log_metrics({"recall@100": 0.5}, step=1)
        run.log_metrics({"recall@100": 0.75}, step=2)
        run.log_file(tmp_path / "curve.png")
    client = MlflowClient(store[0])
    found = client.get_run(run_id)
    assert found.data.params["indexing.probes"] == "3"
    history = client.get_metric_history(run_id, "indexing/recall_at_100")
    assert [(point.step, point.value) for point in history] == [(1, 0.5), (2, 0.75)]
    assert [file.path for file in client.list_artifacts(run_id, "indexing")] == [
        "indexing/curve.png"
    ]


def test_parts_of_a_step_do_not_mix(store: tuple[str, str], run_id: str) -> None:
    for part, value in (("train", 1.0), ("gallery", 2.0)):
        with step_run("feature_extraction", IndexingConfig(), part) as run:
            run.log_metrics({"items": value})
    metrics = MlflowClient(store[0]).get_run(run_id).data.metrics
    assert metrics["feature_extraction/train/items"] == 1.0
    assert metrics["feature_extraction/gallery/items"] == 2.0


def test_a_step_that_fails_ends_its_run_as_failed(store: tuple[str, str], run_id: str) -> None:
    def fail() -> None:
        with step_run("indexing", IndexingConfig()):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert MlflowClient(store[0]).get_run(run_id).info.status == "FAILED"


def test_a_server_that_is_away_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    with (
        pytest.raises(TrackingError, match=r"starting a run at MLflow, http://127\.0\.0\.1:9: "),
        step_run("indexing", IndexingConfig()),
    ):
        pytest.fail("the step must not start")


def test_a_step_that_fails_leaves_its_name_and_error_with_the_run(
    store: tuple[str, str], run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRODUCT1M_PIPELINE_RUN", "run-7")
    with (
        pytest.raises(ValueError, match="no gallery"),
        step_run("feature_extraction", IndexingConfig(), "gallery"),
    ):
        raise ValueError("no gallery")
    run = MlflowClient(store[0]).get_run(run_id)
    assert run.info.status == "FAILED"
    assert run.data.tags["failed_step"] == "feature_extraction/gallery"
    assert run.data.tags["error"] == "ValueError: no gallery"
    assert run.data.tags["pipeline_run"] == "run-7"


@pytest.fixture
def cluster(store: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """The environment of a step's pod, in which no run is named."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store[0])
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "tests")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.setenv("PRODUCT1M_PIPELINE_RUN", f"run-{time.monotonic_ns()}")
    return MlflowClient(store[0])


def runs_of(client: MlflowClient, experiment: str) -> dict[str, Run]:
    """Name to run, of the pipeline run that the environment names."""
    condition = f"tags.pipeline_run = '{os.environ['PRODUCT1M_PIPELINE_RUN']}'"
    found = client.search_runs([experiment], condition)
    assert len({run.info.run_name for run in found}) == len(found)
    return {run.info.run_name: run for run in found}


def test_on_a_cluster_the_steps_runs_are_below_one_run(
    store: tuple[str, str], cluster: MlflowClient
) -> None:
    for step, part in (("indexing", ""), ("feature_extraction", "train"), ("registration", "")):
        with step_run(step, IndexingConfig(), part):
            (parent,) = [run for name, run in runs_of(cluster, store[1]).items() if "pipe" in name]
            assert parent.info.status == "RUNNING"
    runs = runs_of(cluster, store[1])
    assert cluster.get_run(parent.info.run_id).info.status == "FINISHED"
    assert len(runs) == 4
    for name in ("indexing", "feature_extraction/train", "registration"):
        assert runs[name].data.tags["mlflow.parentRunId"] == parent.info.run_id


def test_a_failure_is_the_pipeline_runs_and_a_resumed_step_opens_it_again(
    store: tuple[str, str], cluster: MlflowClient
) -> None:
    with pytest.raises(ValueError, match="no gallery"), step_run("indexing", IndexingConfig()):
        raise ValueError("no gallery")
    (parent,) = [run for name, run in runs_of(cluster, store[1]).items() if "pipe" in name]
    assert parent.info.status == "FAILED"
    with step_run("evaluation", IndexingConfig()):
        assert cluster.get_run(parent.info.run_id).info.status == "RUNNING"


def lose_a_pod(step: str) -> None:
    """Run a step in a process that ends without a chance to say so."""
    script = (
        "import os\n"
        "from product1m.config import IndexingConfig\n"
        "from product1m.telemetry.tracking import step_run\n"
        f"with step_run('{step}', IndexingConfig()):\n"
        "    os._exit(137)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 137


def test_the_run_of_a_lost_attempt_is_ended_by_the_next_one(
    store: tuple[str, str], cluster: MlflowClient
) -> None:
    lose_a_pod("indexing")
    (lost,) = [run for name, run in runs_of(cluster, store[1]).items() if name == "indexing"]
    assert lost.info.status == "RUNNING"
    cluster.set_tag(lost.info.run_id, "mlflow.runName", "lost")
    with step_run("indexing", IndexingConfig()):
        assert cluster.get_run(lost.info.run_id).info.status == "KILLED"


def test_the_last_step_ends_the_runs_of_all_lost_attempts(
    store: tuple[str, str], cluster: MlflowClient
) -> None:
    lose_a_pod("indexing")
    lost = runs_of(cluster, store[1])["indexing"]
    with step_run("registration", IndexingConfig()):
        assert cluster.get_run(lost.info.run_id).info.status == "KILLED"


def test_a_silent_run_is_ended_by_whichever_pipeline_run_comes_next(
    store: tuple[str, str], cluster: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_a_pod("indexing")
    left = runs_of(cluster, store[1])
    (parent,) = [run.info.run_id for name, run in left.items() if "pipe" in name]
    step = left["indexing"].info.run_id

    def statuses_of_next_run(silent_s: dict[str, int]) -> list[str]:
        for run_id, seconds in silent_s.items():
            cluster.set_tag(run_id, "product1m.alive", str(int(time.time()) - seconds))
        monkeypatch.setenv("PRODUCT1M_PIPELINE_RUN", f"run-{time.monotonic_ns()}")
        with step_run("ingestion", IndexingConfig()):
            return [cluster.get_run(run_id).info.status for run_id in (parent, step)]

    assert statuses_of_next_run({}) == ["RUNNING", "RUNNING"], "it may be at work"
    assert statuses_of_next_run({step: 7200, parent: 7200}) == ["RUNNING", "KILLED"]
    ended = cluster.get_run(step)
    assert ended.info.end_time == 1000 * int(ended.data.tags["product1m.alive"])
    assert statuses_of_next_run({parent: 90_000}) == ["KILLED", "KILLED"]


def test_a_step_at_work_gives_signs_of_life(
    store: tuple[str, str], cluster: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("product1m.telemetry.signs_of_life.BEAT_S", 0.05)
    deadline = time.monotonic() + 60
    with step_run("indexing", IndexingConfig()):
        for run in runs_of(cluster, store[1]).values():
            cluster.set_tag(run.info.run_id, "product1m.alive", "0")
            while cluster.get_run(run.info.run_id).data.tags["product1m.alive"] == "0":
                assert time.monotonic() < deadline, "no sign of life came"
                time.sleep(0.05)


def test_mlflow_samples_the_machine_only_if_enabled(
    store: tuple[str, str], run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    client = MlflowClient(store[0])
    with step_run("indexing", IndexingConfig()):
        time.sleep(0.2)
    assert not any(name.startswith("system/") for name in client.get_run(run_id).data.metrics)
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    for part in ("train", "gallery"):
        with step_run("feature_extraction", IndexingConfig(), part):
            time.sleep(0.2)
    metrics = client.get_run(run_id).data.metrics
    for part in ("train", "gallery"):
        prefix = f"system/feature_extraction/{part}"
        assert 0 < metrics[f"{prefix}/system_memory_usage_percentage"] < 100
        assert 0 <= metrics[f"{prefix}/cpu_utilization_percentage"] <= 100


def test_mlflow_sends_no_usage_data() -> None:
    script = """
import product1m.telemetry.tracking, mlflow
from mlflow.telemetry.utils import is_telemetry_disabled
print(is_telemetry_disabled())
"""
    environment = {key: value for key, value in os.environ.items() if "TELEMETRY" not in key}
    out = subprocess.run(
        [sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True
    )
    assert out.stdout.strip() == "True"


def test_without_an_address_a_step_works_and_warns_that_nothing_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with (
        caplog.at_level(logging.INFO, "product1m"),
        step_run("indexing", IndexingConfig()) as run,
    ):
        run.log_metrics({"recall": 1.0})
    assert "MLFLOW_TRACKING_URI is not set, nothing is logged" in caplog.text


def test_progress_is_a_log_line_every_few_seconds_and_one_at_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = iter([0.0, 2.0, 4.0, 6.0, 8.0])  # start, then one look an item
    replace_clock(monkeypatch, "product1m.telemetry.progress", monotonic=lambda: next(clock))
    with caplog.at_level(logging.INFO, "product1m"):
        assert list(track("abcd", "photos")) == list("abcd")
    assert [record.getMessage() for record in caplog.records] == [
        "photos: 3/4, 0.5/s",
        "photos: 4/4, 0.5/s",
    ]
