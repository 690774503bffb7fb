"""`runs` on a cluster: where a run stopped and why, its logs, resuming and stopping it."""

import functools
from pathlib import Path

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner, Result

from pipelines.__main__ import app
from pipelines.cluster.api import Cluster
from pipelines.cluster.follow import Pace
from pipelines.cluster.submission import RunRequest, ensure_version, start_run
from pipelines.graph.package import Package, Variant, package
from product1m.evaluation.results import figures
from tests.support.servers.kfp_server import KfpServer
from tests.support.servers.s3_server import BUCKET, S3Server
from tests.support.worlds.kfp_nodes import executor_name, make_pod, make_workflow
from tests.support.worlds.recordings import RECORDINGS

DATA = {"dataset_uri": "s3://p1m/lists"}
FAILED = {"ingestion": "CACHED", "background-synthesis": "SUCCEEDED", "rpn-training": "FAILED"}
DONE = FAILED | {"rpn-training": "SUCCEEDED"}
LOG = """\
[KFP Executor 2026-11-23 03:00:59,883 INFO]: Looking for component `rpn_training` in …
{"time": "2026-11-23T03:01:00.000+00:00", "level": "INFO", "message": "epoch 1: loss 0.7"}
{"time": "2026-11-23T03:02:00.000+00:00", "level": "ERROR", "message": "rpn_training failed: \
the loss is not finite at step 12\\nlower the learning rate", "step": "rpn_training"}
time="2026-11-23T03:02:01.000Z" level=info msg="sub-process exited" error="exit status 1"
"""
ERROR = {"reason": "Error", "exitCode": 1}


@functools.cache
def compiled() -> Package:
    return package(Variant("sample"))


def started(server: KfpServer, **request: str) -> str:
    cluster = Cluster(server.url)
    run = start_run(cluster, ensure_version(cluster, compiled()), RunRequest(DATA, **request))
    return str(run.run_id)


def workflow(run_id: str) -> str:
    return f"product1m-training-{run_id}"


def failed_run(server: KfpServer, **request: str) -> str:
    server.world.frames = [("FAILED", FAILED)]
    run_id = started(server, **request)
    server.world.get_run(run_id)
    return run_id


def add_pod(
    server: KfpServer, run_id: str, task: str, state: dict[str, object], attempt: int = 0
) -> str:
    """A task's pod, whose main container is in that state; its name."""
    minutes = len(server.world.pods)
    pod = make_pod(run_id, workflow(run_id), task, state, attempt, minutes)
    name = str(pod["metadata"]["name"])
    server.world.pods[name] = pod
    return name


def with_pods(server: KfpServer) -> tuple[str, str]:
    """A failed run whose pods are still there; the last attempt's pod."""
    run_id = failed_run(server)
    fine = add_pod(server, run_id, "background-synthesis", {"terminated": {**ERROR, "exitCode": 0}})
    first = add_pod(server, run_id, "rpn-training", {"terminated": ERROR})
    last = add_pod(server, run_id, "rpn-training", {"terminated": ERROR}, attempt=1)
    server.world.pod_logs |= {fine: "42 items", first: "first", last: LOG}
    return run_id, last


def runs(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["runs", *map(str, arguments)])


def test_a_failed_run_is_explained_by_its_last_attempt(kfp_server: KfpServer) -> None:
    run_id, pod = with_pods(kfp_server)
    shown = runs("show", run_id).output
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "rpn_training FAILED 60" in lines
    assert "ingestion CACHED" in lines
    assert "evaluation NOT RUN" in lines
    because = lines.index("because rpn_training failed: the loss is not finite at step 12")
    assert lines[because + 1] == "lower the learning rate"
    assert f"pod {pod}: Error, exit code 1" in shown
    assert "03:01:00 epoch 1: loss 0.7" in shown
    assert "KFP Executor" not in shown
    assert "sub-process exited" not in shown


def test_a_failed_run_that_was_followed_is_explained_at_once(kfp_server: KfpServer) -> None:
    run_id, _ = with_pods(kfp_server)
    result = runs("follow", run_id)
    assert result.exit_code == 1
    assert "the loss is not finite at step 12" in result.output


@pytest.mark.parametrize("place", ["KFP", "artifact store"])
def test_without_its_pod_a_log_is_read_from_where_it_was_kept(
    kfp_server: KfpServer, place: str
) -> None:
    run_id = failed_run(kfp_server)
    if place == "KFP":
        pod = add_pod(kfp_server, run_id, "rpn-training", {"terminated": ERROR})
        kfp_server.world.kfp_logs[pod] = LOG
    else:
        node = executor_name(workflow(run_id), "rpn-training")
        nodes = [(node, "Failed", "main: Error (exit code 1)")]
        kfp_server.world.workflows.append(make_workflow(run_id, workflow(run_id), nodes))
        kfp_server.world.kept_logs["logs/0/main.log"] = LOG
    assert "not finite at step 12" in runs("logs", run_id, "--task", "rpn_training").output
    assert "the loss is not finite" in runs("show", run_id).output


@pytest.mark.usefixtures("s3")
def test_without_its_pod_a_log_is_read_from_the_pipeline_root(
    kfp_server: KfpServer, s3_server: S3Server, tmp_path: Path
) -> None:
    run_id = failed_run(kfp_server, pipeline_root=f"s3://{BUCKET}/root")
    uploaded = tmp_path / "product1m-training" / run_id / "rpn-training" / "7d6f"
    uploaded.mkdir(parents=True)
    (uploaded / "executor-logs-0").write_text("the first attempt")
    (uploaded / "executor-logs-1").write_text(LOG)
    s3_server.copy(tmp_path, "root")
    shown = runs("logs", run_id, "--task", "rpn_training").output
    assert "the loss is not finite at step 12" in shown
    assert "the first attempt" not in shown


def test_a_log_that_is_nowhere_is_an_error_with_the_places(kfp_server: KfpServer) -> None:
    run_id = failed_run(kfp_server)
    add_pod(kfp_server, run_id, "rpn-training", {"terminated": ERROR})
    shown = runs("show", run_id).output
    assert "stopped in   rpn_training" in shown
    assert "pod: 404" in shown
    assert "KFP: Could not get main container logs" in shown


def test_without_kubernetes_the_rest_is_still_shown(
    kfp_server: KfpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = failed_run(kfp_server)
    nowhere = "/nowhere/kubeconfig"
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", nowhere)
    shown = runs("show", run_id).output
    assert "stopped in   rpn_training" in shown
    assert "no kubeconfig to read them with" in shown


def test_without_kubernetes_a_log_is_read_from_kfp(
    kfp_server: KfpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = kfp_server.world.replay("whole-run")
    nowhere = "/nowhere/kubeconfig"
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", nowhere)
    pod = "product1m-training-gkj66-metadata-0-3-retry-system-container-impl-1111555195"
    kfp_server.world.kfp_logs[pod] = "12 photos"  # the name of the recorded pod
    shown = runs("logs", run_id, "--task", "feature_extraction/train")
    assert shown.stdout.strip() == "12 photos"


def test_a_driver_that_failed_is_shown_too(kfp_server: KfpServer) -> None:
    kfp_server.world.frames = [("FAILED", {"ingestion": "SUCCEEDED", "indexing-driver": "FAILED"})]
    run_id = started(kfp_server)
    assert "stopped in   indexing-driver" in runs("show", run_id).output


def test_logs_are_those_of_the_last_attempt(kfp_server: KfpServer) -> None:
    run_id, _ = with_pods(kfp_server)
    everything = runs("logs", run_id).output
    assert "=== background_synthesis\n42 items" in everything
    assert "first" not in everything
    result = runs("logs", run_id, "--task", "serving")
    assert result.exit_code == 1
    assert "no log of 'serving'" in result.output


def test_a_task_that_did_not_run_has_no_log(kfp_server: KfpServer) -> None:
    run_id, _ = with_pods(kfp_server)
    assert "came from the cache" in runs("logs", run_id, "--task", "ingestion").output
    assert "did not run" in runs("logs", run_id, "--task", "evaluation").output
    kfp_server.world.frames = [("RUNNING", {})]
    assert "no task has started yet" in runs("logs", started(kfp_server)).output


def test_a_pod_still_to_start_has_printed_nothing(kfp_server: KfpServer) -> None:
    kfp_server.world.frames = [("RUNNING", {"ingestion": "RUNNING"})] * 2
    run_id = started(kfp_server)
    waiting = {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}
    add_pod(kfp_server, run_id, "ingestion", {"waiting": waiting})
    shown = runs("logs", run_id, "--task", "ingestion").output
    assert "it cannot start: ImagePullBackOff: Back-off pulling image" in shown


def test_what_has_no_pod_is_explained_by_the_workflow(kfp_server: KfpServer) -> None:
    kfp_server.world.frames = [("RUNNING", {"ingestion": "RUNNING"})] * 3
    run_id = started(kfp_server)
    assert "has not started yet" in runs("logs", run_id, "--task", "ingestion").output
    node = executor_name(workflow(run_id), "ingestion")
    quota = 'pods "x" is forbidden: exceeded quota: compute, requested: cpu=96, limited: cpu=64'
    nodes = [(node, "Pending", quota)]
    kfp_server.world.workflows.append(make_workflow(run_id, workflow(run_id), nodes))
    assert f"because      ingestion: {quota}" in runs("show", run_id).output


def test_a_pod_that_cannot_start_ends_the_following_and_not_the_run(
    kfp_server: KfpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    kfp_server.world.frames = [("RUNNING", {"ingestion": "RUNNING"})] * 50
    run_id = started(kfp_server)
    waiting = {"reason": "CreateContainerConfigError", "message": 'secret "s" not found'}
    add_pod(kfp_server, run_id, "ingestion", {"waiting": waiting})
    monkeypatch.setattr("pipelines.cluster.follow.PACE", Pace(0.01, 0.0, 0.5))
    result = runs("follow", run_id, "--max-wait", "1")
    assert result.exit_code == 5
    assert "ingestion could not start for" in result.output
    assert 'CreateContainerConfigError: secret "s" not found' in result.output
    assert f"runs stop {run_id}" in result.output
    assert kfp_server.world.runs[run_id].state == "RUNNING"


def test_a_failed_run_is_resumed_and_its_story_is_the_new_one(kfp_server: KfpServer) -> None:
    run_id = failed_run(kfp_server)
    kfp_server.world.frames = [
        ("RUNNING", FAILED | {"rpn-training": "RUNNING"}),
        ("SUCCEEDED", DONE),
    ]
    result = runs("resume", run_id)
    assert result.exit_code == 0, result.output
    assert f"({run_id})  SUCCEEDED" in result.output
    assert "rpn_training                SUCCEEDED" in result.output
    assert "FAILED" not in result.output
    again = runs("resume", run_id)
    assert again.exit_code == 1
    assert "is SUCCEEDED; only a failed or stopped run can be resumed" in again.output


def test_a_stopped_run_is_canceled_and_can_be_resumed(kfp_server: KfpServer) -> None:
    kfp_server.world.frames = [("RUNNING", {"ingestion": "RUNNING"})]
    run_id = started(kfp_server)
    assert runs("stop", run_id).exit_code == 0
    assert runs("follow", run_id).exit_code == 3
    assert f"{run_id}  2026-11-23 03:00  CANCELED" in runs("list").output
    result = runs("resume", run_id, "--no-follow")
    assert result.exit_code == 0
    assert f"{run_id}: resumed; `python -m pipelines runs follow {run_id}`" in result.output
    assert f"{run_id}  2026-11-23 03:00  RUNNING" in runs("list").output


def test_runs_are_listed_newest_first(kfp_server: KfpServer) -> None:
    made = [failed_run(kfp_server) for _ in range(3)]
    lines = runs("list", "--number", "2").stdout.splitlines()
    assert [line.split()[0] for line in lines] == made[:0:-1]
    assert all("FAILED" in line for line in lines)
    kfp_server.world.runs[made[-1]].state = None
    assert "PENDING" in runs("list").output


def test_a_run_that_is_not_there_is_named(kfp_server: KfpServer) -> None:
    result = runs("show", "run-99")
    assert result.exit_code == 1
    assert "Run run-99 not found" in result.output


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return MlflowClient(uri)


def test_a_run_that_succeeded_ends_with_figures_gate_version_and_the_next_step(
    kfp_server: KfpServer, mlflow: MlflowClient
) -> None:
    run_id = kfp_server.world.replay("whole-run")
    tracked = mlflow.create_run(mlflow.create_experiment("product1m-training")).info.run_id
    shipped = {"mAP": 0.71234, "mAR": 0.5, "Prec": 0.25}
    tables = {"image_text": {"mAP": 0.6}, "shipped": shipped}
    for figure in figures({name: {"strict": {"10": row}} for name, row in tables.items()}):
        name = f"evaluation/test/{figure.name}".replace("@", "_at_")
        mlflow.log_metric(tracked, name, figure.value)
    for end, value in (("mean", 0.11234), ("low", -0.01), ("high", 0.2)):
        mlflow.log_metric(tracked, f"evaluation/difference/image_text/{end}", value)
    mlflow.create_registered_model("product1m-candidate")
    tags = {
        "pipeline_run": run_id,
        "gate": "failed",
        "gate_rules_not_passed": "lead over text",
        "gate_champion": "product1m/4",
        "strict_mAP_at_10": "0.7123",
    }
    mlflow.create_model_version("product1m-candidate", "runs:/x/m", tracked, tags=tags)
    lines = [" ".join(line.split()) for line in runs("show", run_id).output.splitlines()]
    rows = [line.replace("│", " ").split() for line in lines if line.startswith("│")]
    assert rows == [
        ["shipped", "0.712", "0.500", "0.250"],
        ["image_text", "0.600", "+0.112", "[-0.010,", "+0.200]"],
    ]
    assert "gate failed (lead over text), against product1m/4" in lines
    assert "model product1m-candidate version 1" in lines
    assert any("product1m registry show 1" in line for line in lines)


def test_a_run_that_registered_nothing_or_a_missing_mlflow_is_reported(
    kfp_server: KfpServer, mlflow: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = kfp_server.world.replay("whole-run")
    assert "this run registered no version" in runs("show", run_id).output
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    shown = runs("show", run_id)
    assert shown.exit_code == 0
    assert "figures      unknown: " in shown.output
    assert "http://127.0.0.1:9" in shown.output


def test_a_recorded_log_is_shown_without_the_launchers_lines(kfp_server: KfpServer) -> None:
    run_id = kfp_server.world.replay("bad-data")
    (pod,) = kfp_server.world.pods
    kfp_server.world.pod_logs[pod] = (RECORDINGS / "bad-data" / "log.txt").read_text()
    lines = runs("logs", run_id, "--task", "ingestion").stdout.splitlines()
    assert [line.startswith('{"time"') for line in lines] == [True, True]
