"""`runs`: where a run stopped and why, on a cluster and on this machine; logs, resume, stop."""

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client as kubernetes
from typer.testing import CliRunner, Result

from pipelines.__main__ import app
from pipelines.cluster.api import Cluster
from pipelines.cluster.diagnosis import error_in
from pipelines.cluster.follow import Pace
from pipelines.cluster.submission import RunRequest, ensure_version, start_run
from pipelines.graph.package import Package, Variant, package
from pipelines.local.record import RunRecord, read_record
from pipelines.local.run import request_of
from product1m.config import load_config
from tests.support.paths import ROOT
from tests.support.servers.kfp_server import KfpServer, serving
from tests.support.worlds.small_datasets import small_dataset

DATA = {"dataset_uri": "s3://p1m/lists"}
FAILED = {
    "product1m-training-x7k2p": "FAILED",
    "root-driver": "SUCCEEDED",
    "root": "FAILED",
    "ingestion-driver": "SUCCEEDED",
    "ingestion": "SUCCEEDED",
    "background-synthesis": "SUCCEEDED",
    "rpn-training-driver": "SUCCEEDED",
    "rpn-training": "FAILED",
    "executor": "FAILED",
    "executor(0)": "FAILED",
    "executor(1)": "FAILED",
}
"""Nodes as Argo names them; KFP 2.17 gives neither their errors nor their pods."""
LOG = """\
{"time": "2026-11-23T03:01:00.000+00:00", "level": "INFO", "message": "epoch 1: loss 0.7"}
{"time": "2026-11-23T03:02:00.000+00:00", "level": "ERROR", "message": "rpn_training failed: \
the loss is not finite at step 12", "step": "rpn_training"}
time="2026-11-23T03:02:01.000Z" level=info msg="sub-process exited" error="exit status 1"
"""


@functools.cache
def compiled() -> Package:
    return package(Variant("sample"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[KfpServer]:
    for name in [name for name in os.environ if name.startswith("KF_PIPELINES_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("pipelines.cluster.api.BACKOFF_S", 0.01)
    monkeypatch.setattr(
        "pipelines.cluster.follow.PACE", Pace(poll_s=0.01, tell_s=0.0, patience_s=0.5)
    )
    with serving() as started:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", started.url)
        kubeconfig = {
            "clusters": [{"name": "test", "cluster": {"server": started.url}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        }
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
        monkeypatch.setattr(
            "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION",
            str(tmp_path / "kubeconfig"),
        )
        yield started


def failed_run(server: KfpServer) -> str:
    server.world.frames = [("FAILED", FAILED)]
    cluster = Cluster(server.url)
    run = start_run(cluster, ensure_version(cluster, compiled()), RunRequest(DATA))
    server.world.get_run(run.run_id)
    return str(run.run_id)


def add_pod(server: KfpServer, run_id: str, name: str, node: str, **state: Any) -> None:
    """A pod of the run as KFP makes it; `state` is that of its main container."""
    age = timedelta(minutes=len(server.world.pods))
    server.world.pods[name] = kubernetes.V1Pod(
        metadata=kubernetes.V1ObjectMeta(
            name=name,
            namespace="kubeflow",
            labels={"pipeline/runid": run_id},
            annotations={"workflows.argoproj.io/node-name": node},
            creation_timestamp=datetime(2026, 11, 23, tzinfo=UTC) + age,
        ),
        status=kubernetes.V1PodStatus(
            phase="Failed" if "terminated" in state else "Pending",
            container_statuses=[
                kubernetes.V1ContainerStatus(
                    name="main",
                    image="product1m/rpn-training",
                    image_id="",
                    ready=False,
                    restart_count=0,
                    state=kubernetes.V1ContainerState(**state),
                )
            ],
        ),
    )


def with_pods(server: KfpServer, reason: str = "Error", exit_code: int = 1) -> str:
    """A failed run whose pods are still there: a driver's, a finished step's, two attempts."""
    run_id = failed_run(server)
    ended = kubernetes.V1ContainerStateTerminated(reason=reason, exit_code=exit_code)
    fine = kubernetes.V1ContainerStateTerminated(reason="Completed", exit_code=0)
    root = "product1m-training-x7k2p.root"
    add_pod(server, run_id, "wf-driver-1", f"{root}.rpn-training-driver", terminated=fine)
    add_pod(server, run_id, "wf-impl-1", f"{root}.ingestion.executor(0)", terminated=fine)
    add_pod(server, run_id, "wf-impl-2", f"{root}.rpn-training.executor(0)", terminated=ended)
    add_pod(server, run_id, "wf-impl-3", f"{root}.rpn-training.executor(1)", terminated=ended)
    server.world.pod_logs |= {"wf-impl-1": "42 items", "wf-impl-2": "first", "wf-impl-3": LOG}
    return run_id


def runs(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["runs", *map(str, arguments)])


def test_a_failed_run_is_told_with_its_task_its_error_and_its_log(server: KfpServer) -> None:
    run_id = with_pods(server)
    shown = runs("show", run_id).output
    lines = [line.split() for line in shown.splitlines()]
    assert ["rpn_training", "FAILED", "60"] in lines
    assert ["ingestion", "SUCCEEDED", "60"] in lines
    assert ["evaluation", "PENDING"] in lines
    assert "stopped in   rpn_training" in shown
    assert "because      rpn_training failed: the loss is not finite at step 12" in shown
    assert "pod wf-impl-3: Error, exit code 1" in shown
    assert "epoch 1: loss 0.7" in shown
    assert f"runs logs {run_id} --task rpn_training" in shown
    assert "kubectl logs -n kubeflow wf-impl-3 -c main" in shown
    assert f"{server.url}/#/runs/details/{run_id}" in shown
    assert f"`python -m pipelines runs resume {run_id}`" in shown


def test_a_step_that_ran_out_of_memory_says_so(server: KfpServer) -> None:
    run_id = with_pods(server, "OOMKilled", 137)
    server.world.pod_logs["wf-impl-3"] = "epoch 1\n"
    assert "because      pod wf-impl-3: OOMKilled, exit code 137" in runs("show", run_id).output


def test_a_run_that_cannot_start_says_what_it_waits_for(server: KfpServer) -> None:
    cluster = Cluster(server.url)
    server.world.frames = [("RUNNING", {"ingestion": "RUNNING"})]
    run = start_run(cluster, ensure_version(cluster, compiled()), RunRequest(DATA))
    waiting = kubernetes.V1ContainerStateWaiting(
        reason="CreateContainerConfigError", message='secret "product1m-mlflow" not found'
    )
    node = "product1m-training-x7k2p.root.ingestion.executor(0)"
    add_pod(server, run.run_id, "wf-impl-1", node, waiting=waiting)
    shown = runs("show", run.run_id).output
    assert 'CreateContainerConfigError: secret "product1m-mlflow" not found' in shown


def test_when_the_pods_are_gone_the_archive_has_the_log(server: KfpServer) -> None:
    run_id = with_pods(server)
    server.world.archived_logs = {"wf-impl-3": LOG}
    del server.world.pod_logs["wf-impl-3"]
    assert "the loss is not finite at step 12" in runs("show", run_id).output


def test_without_pods_the_rest_is_still_told(
    server: KfpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = failed_run(server)
    assert "stopped in   rpn_training" in runs("show", run_id).output
    nowhere = "/nowhere/kubeconfig"
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", nowhere)
    shown = runs("show", run_id).output
    assert "stopped in   rpn_training" in shown
    assert "no kubeconfig to read them with" in shown


def test_a_driver_that_failed_is_told_too(server: KfpServer) -> None:
    run_id = failed_run(server)
    nodes = {"root": "FAILED", "ingestion": "SUCCEEDED", "indexing-driver": "FAILED"}
    server.world._left[run_id] = [("FAILED", nodes)]
    assert "stopped in   indexing-driver" in runs("show", run_id).output


def test_a_failed_run_that_was_followed_is_explained_at_once(server: KfpServer) -> None:
    run_id = with_pods(server)
    result = runs("follow", run_id)
    assert result.exit_code == 1
    assert "the loss is not finite at step 12" in result.output


def test_logs_are_those_of_the_last_attempt(server: KfpServer) -> None:
    run_id = with_pods(server)
    assert runs("logs", run_id, "--task", "rpn_training").output.strip() == LOG.strip()
    everything = runs("logs", run_id).output
    assert "=== ingestion\n42 items" in everything
    assert "first" not in everything
    result = runs("logs", run_id, "--task", "serving")
    assert result.exit_code == 1
    assert "no log of 'serving'; there is ingestion, rpn_training" in result.output


def test_a_failed_run_is_resumed_and_followed(server: KfpServer) -> None:
    run_id = failed_run(server)
    server.world.frames = [("RUNNING", {}), ("SUCCEEDED", {"rpn-training": "SUCCEEDED"})]
    assert runs("resume", run_id).exit_code == 0
    assert server.world.runs[run_id].state == "SUCCEEDED"
    result = runs("resume", run_id)
    assert result.exit_code == 1
    assert "is SUCCEEDED; only a failed or cancelled run goes on" in result.output


def test_a_run_is_stopped_and_can_be_resumed(server: KfpServer) -> None:
    cluster = Cluster(server.url)
    server.world.frames = [("RUNNING", {})]
    run = start_run(cluster, ensure_version(cluster, compiled()), RunRequest(DATA))
    assert runs("stop", run.run_id).exit_code == 0
    assert runs("follow", run.run_id).exit_code == 3
    assert runs("resume", run.run_id, "--no-follow").exit_code == 0


def test_runs_are_listed_newest_first(server: KfpServer) -> None:
    made = [failed_run(server) for _ in range(3)]
    lines = runs("list", "--number", "2").output.splitlines()
    assert [line.split()[0] for line in lines] == made[:0:-1]
    assert all("FAILED" in line for line in lines)
    server.world.runs[made[-1]].state = None
    assert "PENDING" in runs("list").output


def test_a_run_that_is_not_there_is_named(server: KfpServer) -> None:
    result = runs("show", "run-99")
    assert result.exit_code == 1
    assert "Run run-99 not found" in result.output


def test_an_error_is_found_in_json_lines_and_in_a_traceback() -> None:
    assert error_in(LOG.splitlines()) == "rpn_training failed: the loss is not finite at step 12"
    traceback = [
        "Traceback (most recent call last):",
        '  File "x.py", line 1, in <module>',
        "product1m.errors.DatasetError: train.txt:3: expected 5 fields",
        "I1123 03:02:01.000 launcher exited",
    ]
    assert error_in(traceback) == "DatasetError: train.txt:3: expected 5 fields"
    assert error_in(["all is well", "{not json"]) == ""


@pytest.fixture(scope="module")
def failure(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The output folder of a local run that failed in its first step, and its command."""
    folder = tmp_path_factory.mktemp("local")
    data = small_dataset(folder / "data")
    for photo in (data / "images").iterdir():
        photo.write_bytes(b"no photo")
    output = folder / "out"
    environment = {key: value for key, value in os.environ.items() if "MLFLOW" not in key}
    return output, subprocess.run(
        [sys.executable, "-m", "pipelines", "run", "--dataset", data, "--output", output],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture
def stopped(failure: tuple[Path, subprocess.CompletedProcess[str]]) -> Path:
    return failure[0]


def test_a_step_that_fails_ends_the_command_with_exit_code_1(
    failure: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    _, ended = failure
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "error: ingestion failed: DatasetError: " in ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr


def test_a_failed_local_run_is_told_the_same_way(stopped: Path) -> None:
    shown = runs("show", stopped).output
    assert "FAILED" in shown.splitlines()[0]
    lines = [line.split() for line in shown.splitlines()]
    assert ["ingestion", "FAILED"] in lines
    assert ["registration", "PENDING"] in lines
    assert "stopped in   ingestion" in shown
    assert "because      DatasetError: " in shown
    assert f"whole log    {stopped / 'run.log'}" in shown
    assert f"`python -m pipelines runs resume {stopped}`" in shown
    steps = [line[0] for line in lines if len(line) == 2 and line[1] == "PENDING"]
    assert steps.index("rpn_training") < steps.index("capture_pretraining")


def test_a_local_runs_log_is_read_by_task(stopped: Path) -> None:
    log = runs("logs", stopped, "--task", "ingestion").output
    assert "DatasetError" in log
    assert "rpn_training" not in log
    assert "no log of 'indexing'" in runs("logs", stopped, "--task", "indexing").output


def test_local_runs_are_listed_with_the_step_they_stopped_in(stopped: Path) -> None:
    (line,) = runs("list", stopped.parent).output.splitlines()
    assert line.split()[0] == str(stopped)
    assert line.endswith("FAILED      ingestion")


def test_a_local_run_is_resumed_as_it_was_asked_for(stopped: Path, tmp_path: Path) -> None:
    record = read_record(stopped)
    request = request_of(record)
    assert request.output == stopped
    assert request.dataset == str(stopped.parent / "data")
    assert (request.config, request.preset) == (load_config("sample"), "sample")
    record.request["dataset"] = str(tmp_path / "gone")
    record.write(tmp_path)
    result = runs("resume", tmp_path)
    assert result.exit_code == 1
    assert f"--dataset {tmp_path / 'gone'}: no such folder" in result.output


def test_a_local_run_that_was_killed_is_known(stopped: Path, tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                           capture_output=True, text=True, check=True)  # fmt: skip
    record: RunRecord = read_record(stopped)
    record.state, record.pid, record.error, record.failed_step = (
        "RUNNING",
        int(ended.stdout),
        "",
        "",
    )
    record.write(tmp_path)
    (tmp_path / "run.log").write_text(
        "Executing task 'ingestion'\nTask 'ingestion' finished with status SUCCESS\n"
        "Executing task 'rpn-training'\nepoch 3: loss 0.7\n"
    )
    shown = runs("show", tmp_path).output
    assert "KILLED" in shown.splitlines()[0]
    assert "stopped in   rpn_training" in shown
    assert "epoch 3: loss 0.7" in shown
    record.pid = os.getpid()
    record.write(tmp_path)
    assert "RUNNING" in runs("show", tmp_path).output.splitlines()[0]
    assert "is still running" in runs("resume", tmp_path).output


def test_a_folder_without_a_run_is_said_to_be_one(tmp_path: Path) -> None:
    result = runs("show", tmp_path)
    assert result.exit_code == 1
    assert "expected the --output folder of `python -m pipelines run`" in result.output
    (tmp_path / "run.json").write_text(json.dumps({"state": "RUNNING"}))
    assert "not the record of a run" in runs("show", tmp_path).output
