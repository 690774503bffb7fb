"""A training step on several nodes: its TrainJob is started once, followed, bounded and removed."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from product1m.artifacts.folder import open_artifact, write_artifact
from product1m.config import CapturePretrainingConfig, TrainingJobConfig, load_config
from product1m.errors import RANK_EXIT_CODE, ConfigError, TrainingError
from product1m.jobs import kubernetes_api as cluster
from product1m.jobs import train_job
from product1m.jobs.launch import launch
from product1m.jobs.torchrun import step_command
from product1m.steps import capture_pretraining
from tests.support.servers.kubernetes_api import Fault, KubernetesApi, Node, kubernetes_api
from tests.support.worlds.feature_artifacts import PRETRAINING as SHORT
from tests.support.worlds.feature_artifacts import make_features

STEP = "capture_pretraining"
JOB = TrainingJobConfig(num_nodes=2, processes_per_node=4, max_pending_s=60, max_running_s=60)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return list(make_features(tmp_path_factory.mktemp("features")))


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesApi]:
    """A cluster whose nodes log a little, and whose first one writes the artifact."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("KFP_POD_NAME", "step-pod")
    monkeypatch.setenv("PRODUCT1M_WORK", str(work))
    monkeypatch.setenv("MLFLOW_RUN_ID", "run-5")
    monkeypatch.setenv("PRODUCT1M_IMAGE", "registry.example/capture@sha256:5e1f")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "s3same")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with kubernetes_api(tmp_path, train) as server:
        server.add_step_pod("step-pod", work)
        yield server


def train(node: Node) -> int:
    for line in range(20):
        node.log(f"node {node.number} line {line}")
        time.sleep(0.01)
    if node.number == 0:
        write_result(node)
    return 0


def write_result(node: Node) -> None:
    command = node.body["spec"]["trainer"]["command"]
    checkpoint = command[command.index("capture-pretraining") + 3]
    with write_artifact(Path(checkpoint), STEP, SHORT) as writer:
        (writer.folder / "model.safetensors").write_bytes(b"weights")
        writer.metrics["loss/total"] = 1.5


def assert_nothing_left(folder: Path) -> None:
    assert not list((folder / "work/train-jobs").iterdir()), "nothing stays on the volume"


def run(features: list[Path], folder: Path, job: TrainingJobConfig = JOB) -> None:
    train_job.run(STEP, features, folder / "checkpoint", SHORT, job, poll_s=0.02)


def test_a_job_is_started_followed_and_removed_and_its_artifact_taken_over(
    api: KubernetesApi, features: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "checkpoint").mkdir()  # as KFP's launcher does
    run(features, tmp_path)
    artifact = open_artifact(tmp_path / "checkpoint", STEP)
    artifact.verify()
    assert artifact.manifest.metrics == {"loss/total": 1.5}
    log = [line for line in capfd.readouterr().err.splitlines() if line.startswith("node ")]
    assert log == [f"node 0 line {line}" for line in range(20)], "node 0's log, every line once"
    (body,) = api.created
    assert api.deleted == [body["metadata"]["name"]]
    assert not api.jobs
    assert_nothing_left(tmp_path)


def test_the_job_runs_the_same_image_and_section_on_the_nodes_asked_for(
    api: KubernetesApi, features: list[Path], tmp_path: Path
) -> None:
    run(features, tmp_path)
    (body,) = api.created  # the server has checked it against Trainer's models
    spec, trainer = body["spec"], body["spec"]["trainer"]
    assert spec["runtimeRef"]["name"] == JOB.runtime
    assert spec["activeDeadlineSeconds"] == 120
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 4)
    assert trainer["image"] == "registry.example/capture@sha256:5e1f"
    assert body["metadata"]["ownerReferences"] == [
        {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Workflow",
            "name": "product1m-training-x7k",
            "uid": "11-22",
        }
    ], "the job goes when the run is deleted, not when a pod of it is replaced"
    environment = {one["name"]: one["value"] for one in trainer["env"]}
    assert environment["MLFLOW_RUN_ID"] == "run-5"
    assert environment["PRODUCT1M_IMAGE"] == trainer["image"]
    assert environment["PRODUCT1M_WORK"] == str(tmp_path / "work")
    assert "s3same" not in json.dumps(body), "credentials come from the runtime"
    command = trainer["command"]
    module = command.index("product1m")
    assert command[:3] == ["python", "-m", "product1m.jobs.torchrun"]
    assert "--max-restarts=0" in command, "JobSet restarts all nodes, torchrun none alone"
    assert all(Path(path).is_relative_to(tmp_path / "work") for path in command[module + 2 :][:3])


def test_a_command_line_gives_the_section_it_was_made_of() -> None:
    changes = {"learning_rate": 1e-05, "text_model": "none", "batch_size": 7, "input_skip": False}
    section = CapturePretrainingConfig(**{**SHORT.model_dump(), **changes})
    command = step_command(STEP, [Path("/a"), Path("/b")], Path("/c"), section)
    assert command[:5] == ["product1m", "capture-pretraining", "/a", "/b", "/c"]
    assert command[5] == "--preset=reference"
    overrides = [one.removeprefix("--set=") for one in command[6:]]
    assert load_config("reference", overrides).capture_pretraining == section
    assert len(overrides) < len(CapturePretrainingConfig.model_fields)


def test_a_step_tried_again_goes_on_with_the_job_of_the_attempt_before(
    api: KubernetesApi, features: list[Path], tmp_path: Path
) -> None:
    go_on = threading.Event()

    def slow(node: Node) -> int:
        go_on.wait(20)
        return train(node)

    api.run_node = slow
    attempt = threading.Thread(target=run, args=(features, tmp_path))
    killed = step_process(features, tmp_path / "checkpoint")
    wait_for(lambda: bool(api.jobs))
    killed.kill()
    killed.communicate()
    attempt.start()
    wait_for(lambda: [method for method, _ in api.requests].count("POST") == 2)
    go_on.set()
    attempt.join(20)
    assert len(api.created) == 1
    assert open_artifact(tmp_path / "checkpoint", STEP).manifest.metrics == {"loss/total": 1.5}


SCRIPT = """
import sys
from pathlib import Path
from product1m.config import CapturePretrainingConfig, TrainingJobConfig
from product1m.jobs.launch import launch
from product1m.steps import capture_pretraining
config = CapturePretrainingConfig.model_validate_json(sys.argv[1])
job = TrainingJobConfig.model_validate_json(sys.argv[2])
*inputs, checkpoint = map(Path, sys.argv[3:])
launch("capture_pretraining", capture_pretraining.run, inputs, checkpoint, config, job)
"""


def step_process(features: list[Path], checkpoint: Path) -> "subprocess.Popen[str]":
    section, job = SHORT.model_dump_json(), JOB.model_dump_json()
    folders = [*map(str, features), str(checkpoint)]
    command = [sys.executable, "-c", SCRIPT, section, job, *folders]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_step_that_is_told_to_end_takes_its_job_with_it(
    api: KubernetesApi, features: list[Path], tmp_path: Path
) -> None:
    def endless(node: Node) -> int:
        node.log("training")
        node.stopped.wait(60)
        return 0

    api.run_node = endless
    step = step_process(features, tmp_path / "checkpoint")
    assert step.stderr is not None
    assert any(line == "training\n" for line in step.stderr)
    step.send_signal(signal.SIGTERM)
    step.communicate(timeout=60)
    assert step.returncode == 128 + signal.SIGTERM
    assert not api.jobs
    assert len(api.deleted) == 1


def test_a_failed_job_of_an_earlier_attempt_makes_room_for_a_new_one(
    api: KubernetesApi, features: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.run_node = lambda node: 1
    api.faults.append(Fault("DELETE", "trainjobs", 403))
    with pytest.raises(TrainingError, match="failed, "):
        run(features, tmp_path)
    (job,) = api.jobs.values()  # it could not be removed
    wait_for(lambda: cluster.condition(job, "Failed") is not None)
    api.run_node = train
    run(features, tmp_path)
    assert len(api.created) == 2
    assert api.created[0]["metadata"]["name"] == api.created[1]["metadata"]["name"]
    assert open_artifact(tmp_path / "checkpoint", STEP)


def test_another_section_or_run_is_another_job(features: list[Path], tmp_path: Path) -> None:
    def name(checkpoint: str = "run-1", **changes: Any) -> str:
        config = SHORT.model_copy(update=changes)
        return train_job.job_name(STEP, features, tmp_path / checkpoint, config, JOB, "image")

    assert name() == name()
    assert len({name(), name("run-2"), name(seed=1)}) == 3


def test_broken_connections_and_server_errors_are_waited_out(
    api: KubernetesApi,
    features: list[Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    api.faults += [
        Fault("POST", "trainjobs", after=True),  # it is created, but nobody hears of it
        Fault("GET", "trainjobs", 500),
        Fault("GET", "pods", 503),
        Fault("GET", "/log", cut_log_after=5),
        Fault("GET", "/log"),
    ]
    run(features, tmp_path)
    assert not [fault for fault in api.faults if fault.times]
    assert len(api.created) == 1
    log = [line for line in capfd.readouterr().err.splitlines() if line.startswith("node 0")]
    assert log == [f"node 0 line {line}" for line in range(20)]


def test_an_api_that_stays_away_ends_the_step(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.TrainJobApi.connect()
    away = cluster.TrainJobApi("shop", max_away_s=0.6)
    api.faults.append(Fault("GET", "trainjobs", 503, times=99))
    with pytest.raises(TrainingError, match=r"reading the TrainJob x: .*not answered.*Service"):
        away.get("x")


def test_a_missing_right_is_named(api: KubernetesApi, features: list[Path], tmp_path: Path) -> None:
    api.faults.append(Fault("POST", "trainjobs", 403))
    with pytest.raises(
        TrainingError, match=r"starting .*namespace shop.*403.*product1m-train-jobs"
    ):
        run(features, tmp_path)
    assert not api.created


def test_a_cluster_without_trainer_is_told(
    api: KubernetesApi, features: list[Path], tmp_path: Path
) -> None:
    api.faults.append(Fault("POST", "trainjobs", 404))
    with pytest.raises(TrainingError, match="is Kubeflow Trainer v2 installed"):
        run(features, tmp_path)


def test_a_job_that_finds_no_place_is_given_up_with_the_schedulers_reason(
    api: KubernetesApi, features: list[Path], tmp_path: Path
) -> None:
    api.unschedulable = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    job = JOB.model_copy(update={"max_pending_s": 1})
    with pytest.raises(TrainingError, match=r"(?s)max_pending_s = 1 s, 0 of 2 .*Insufficient nvid"):
        run(features, tmp_path, job)
    assert not api.jobs


def test_a_suspended_job_says_so(api: KubernetesApi, features: list[Path], tmp_path: Path) -> None:
    api.suspended = True
    with pytest.raises(TrainingError, match=r"pending .*it is suspended"):
        run(features, tmp_path, JOB.model_copy(update={"max_pending_s": 1}))
    assert not api.jobs


def test_a_job_that_trains_for_too_long_is_ended(
    api: KubernetesApi, features: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "LOG_SILENCE_S", 0.2)

    def endless(node: Node) -> int:
        node.stopped.wait(30)
        return 0

    api.run_node = endless
    with pytest.raises(TrainingError, match=r"running for more than .*max_running_s = 1"):
        run(features, tmp_path, JOB.model_copy(update={"max_running_s": 1}))
    assert not api.jobs


def test_an_error_of_the_step_ends_the_job_in_its_first_round(
    api: KubernetesApi, features: list[Path], tmp_path: Path
) -> None:
    def damaged(node: Node) -> int:
        node.log("some progress")
        if node.number == 0:
            node.log("[rank0]: RuntimeError: Connection closed by peer")
            for line in range(34):
                node.log(f"torchrun's farewell, line {line}")
            return 1
        node.log("error: /work/inputs/0/regions-00000.safetensors: damaged")
        return RANK_EXIT_CODE

    api.run_node = damaged
    api.restart_delay_s = 30.0
    expected = r"failed\npod \S+-node-0-1-\w{5} ended with exit code 65 .*regions-00000.*: damaged$"
    with pytest.raises(TrainingError, match=expected):
        run(features, tmp_path)
    assert set(api.restarts.values()) == {0}
    assert not api.jobs
    assert not (tmp_path / "checkpoint").exists()
    assert_nothing_left(tmp_path)


def test_an_error_is_known_though_its_pod_is_deleted_at_once(
    api: KubernetesApi, features: list[Path], tmp_path: Path
) -> None:
    def damaged(node: Node) -> int:
        if node.number == 1:
            node.log("error: shard-7: cut short")
            time.sleep(1.0)  # Python and torchrun take longer to end
            return RANK_EXIT_CODE
        node.stopped.wait(30)
        return 0

    api.run_node = damaged
    api.restart_delay_s = 0.0
    with pytest.raises(TrainingError, match=r"node-0-1-\w{5} .*: shard-7: cut short$"):
        run(features, tmp_path)
    assert set(api.restarts.values()) == {1}, "the next round ends as soon as it is seen"


def test_a_lost_node_starts_a_new_round_and_the_log_says_why(
    api: KubernetesApi,
    features: list[Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def lost_once(node: Node) -> int:
        if api.restarts[node.body["metadata"]["name"]] == 0:
            time.sleep(0.2)
            if node.number == 1:
                node.log("process failed: rank 1 was ended by SIGKILL")
                return 137
            node.stopped.wait(30)
            return 1
        return train(node)

    api.run_node = lost_once
    with caplog.at_level("INFO", logger="product1m"):
        run(features, tmp_path)
    assert open_artifact(tmp_path / "checkpoint", STEP)
    story = [
        re.sub(r"-[0-9a-f]{12}", "", record.message)
        for record in caplog.records
        if record.name.startswith("product1m.jobs")
    ]
    assert story[:2] == [
        "TrainJob capture-pretraining: created, 2 nodes with 4 processes each",
        "TrainJob capture-pretraining: all 2 nodes run",
    ]
    assert re.search(
        r"TrainJob capture-pretraining: round 1 ended; the nodes start again from the last "
        r"checkpoint\n(.*\n)*pod capture-pretraining-node-0-1-\w{5} ended with exit code 137 "
        r"\(Error\): rank 1 was ended by SIGKILL",
        story[2],
    )
    assert story[3:] == [
        "TrainJob capture-pretraining: all 2 nodes run",
        "TrainJob capture-pretraining: complete",
    ]


def test_nodes_that_crash_every_time_end_the_step_with_the_last_reason(
    api: KubernetesApi, features: list[Path], tmp_path: Path
) -> None:
    def crashes(node: Node) -> int:
        time.sleep(0.05)
        node.log("Traceback (most recent call last):")
        node.log("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB")
        return 1

    api.run_node = crashes
    with pytest.raises(TrainingError, match=r"(?s)ReachedMaxRestarts.*exit code 1 .*CUDA out of m"):
        run(features, tmp_path, JOB.model_copy(update={"max_restarts": 9}))
    assert set(api.restarts.values()) == {3}
    assert_nothing_left(tmp_path)


def test_the_step_restarts_no_more_often_than_it_is_configured(
    api: KubernetesApi, features: list[Path], tmp_path: Path
) -> None:
    api.run_node = lambda node: 1
    with pytest.raises(TrainingError, match=r"round 2 failed, and training_job.max_restarts is 1"):
        run(features, tmp_path, JOB.model_copy(update={"max_restarts": 1}))
    assert not api.jobs


def test_copies_of_inputs_go_with_a_failed_job_and_checkpoints_stay(
    api: KubernetesApi, features: list[Path], tmp_path: Path
) -> None:
    work = tmp_path / "work"
    recent, old = (work / f"capture_pretraining-{digit * 16}" for digit in "ab")
    abandoned, other = work / "train-jobs/rpn-training-0123456789ab", work / "notes"
    for folder in (recent, old, abandoned, other):
        folder.mkdir(parents=True)
    long_ago = time.time() - 15 * 86_400
    for folder in (old, abandoned, other):
        os.utime(folder, (long_ago, long_ago))
    api.run_node = lambda node: RANK_EXIT_CODE
    with pytest.raises(TrainingError):
        run(features, tmp_path, JOB.model_copy(update={"max_restarts": 0}))
    assert_nothing_left(tmp_path)
    assert recent.exists(), "the next attempt continues from it"
    assert not old.exists()
    assert other.exists(), "not ours"


def test_a_damaged_copy_of_an_input_is_copied_again(
    api: KubernetesApi, features: list[Path], tmp_path: Path
) -> None:
    name = train_job.job_name(
        STEP, features, tmp_path / "checkpoint", SHORT, JOB, "registry.example/capture@sha256:5e1f"
    )
    copies = [tmp_path / f"work/train-jobs/{name}/inputs/{number}" for number in range(2)]
    for source, copy in zip(features, copies, strict=True):
        shutil.copytree(source, copy)
    (damaged,) = copies[0].glob("regions-*")
    damaged.write_bytes(damaged.read_bytes()[:-7])
    untouched = (copies[1] / "manifest.json").stat().st_ino
    seen: list[bytes] = []

    def reads(node: Node) -> int:
        if node.number == 0:
            seen.append(damaged.read_bytes())
            assert (copies[1] / "manifest.json").stat().st_ino == untouched, "a good one is kept"
        return train(node)

    api.run_node = reads
    run(features, tmp_path)
    assert seen == [(features[0] / damaged.name).read_bytes()]


def test_nodes_that_mount_another_volume_are_noticed(
    api: KubernetesApi, features: list[Path], tmp_path: Path
) -> None:
    api.run_node = lambda node: 0
    with pytest.raises(TrainingError, match="complete, but there is no artifact here; its pods"):
        run(features, tmp_path)


def test_a_job_that_somebody_removes_ends_the_step(
    api: KubernetesApi, features: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def removed(node: Node) -> int:
        if node.number == 0:
            api.remove(node.body["metadata"]["name"])
        return 0

    api.run_node = removed
    with pytest.raises(TrainingError, match="somebody deleted it"):
        run(features, tmp_path)


@pytest.mark.parametrize("work", ["", "/tmp"])
def test_without_a_volume_that_nodes_share_nothing_is_started(
    api: KubernetesApi,
    features: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    work: str,
) -> None:
    monkeypatch.setenv("PRODUCT1M_WORK", work)
    with pytest.raises(ConfigError, match=r"product1m-work at .*--work-volume CLAIM"):
        run(features, tmp_path)
    assert not api.created


def test_without_a_cluster_more_than_one_node_is_refused(
    features: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError, match="needs a Kubernetes cluster"):
        launch(STEP, capture_pretraining.run, features, tmp_path / "checkpoint", SHORT, JOB)


def test_two_nodes_train_what_two_processes_of_one_node_train(
    api: KubernetesApi, features: list[Path], tmp_path: Path
) -> None:
    """Every node runs the job's command, with the variables that Trainer sets, as a process."""
    config = SHORT.model_copy(update={"dropout": 0.0, "attention_dropout": 0.0, "num_epochs": 1})
    port = 20_000 + os.getpid() % 20_000

    def torchrun(node: Node) -> int:
        trainer = node.body["spec"]["trainer"]
        given = {one["name"]: one["value"] for one in trainer["env"]}
        rendezvous = {
            "PET_NNODES": str(trainer["numNodes"]),
            "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
            "PET_NODE_RANK": str(node.number),
            "PET_MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_PORT": str(port),
        }
        with subprocess.Popen(
            [sys.executable, *trainer["command"][1:]],
            env={**os.environ, **given, **rendezvous, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            for line in process.stdout:
                node.log(line.rstrip("\n"))
        return process.returncode

    api.run_node = torchrun
    job = JOB.model_copy(
        update={"processes_per_node": 1, "max_pending_s": 300, "max_running_s": 300}
    )
    train_job.run(STEP, features, tmp_path / "two", config, job, poll_s=0.1)
    here = TrainingJobConfig(processes_per_node=2)
    expected = launch(STEP, capture_pretraining.run, features, tmp_path / "one", config, here)
    two = open_artifact(tmp_path / "two", STEP).manifest.metrics
    assert two == pytest.approx(expected, rel=1e-3)
