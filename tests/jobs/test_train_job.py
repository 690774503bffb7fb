"""A training step on several nodes: its TrainJob is started once, followed and removed."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from product1m.artifacts.folder import open_artifact
from product1m.config import CapturePretrainingConfig, load_config
from product1m.errors import RANK_EXIT_CODE, ConfigError, TrainingError
from product1m.jobs import train_job
from product1m.jobs.launch import launch
from product1m.jobs.torchrun import step_command
from product1m.steps import capture_pretraining
from tests.support.servers.ports import free_port
from tests.support.worlds.feature_artifacts import PRETRAINING as SHORT
from tests.support.worlds.ranks import run_as_ranks, torchrun_store
from tests.support.worlds.train_jobs import (
    JOB,
    STEP,
    assert_nothing_left,
    run,
    train,
)
from tests.support.worlds.trainer_world import Node, TrainerWorld


def test_a_job_is_started_followed_and_removed_and_its_artifact_taken_over(
    api: TrainerWorld, features: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
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
    api: TrainerWorld, features: list[Path], tmp_path: Path
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
    environment = {variable["name"]: variable["value"] for variable in trainer["env"]}
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
    overrides = [option.removeprefix("--set=") for option in command[6:]]
    assert load_config("reference", overrides).capture_pretraining == section
    assert len(overrides) < len(CapturePretrainingConfig.model_fields)


def test_another_section_or_run_is_another_job(features: list[Path], tmp_path: Path) -> None:
    def name(checkpoint: str = "run-1", **changes: Any) -> str:
        config = SHORT.model_copy(update=changes)
        return train_job.job_name(STEP, features, tmp_path / checkpoint, config, JOB, "image")

    assert name() == name()
    assert len({name(), name("run-2"), name(seed=1)}) == 3


def test_copies_of_inputs_go_with_a_failed_job_and_checkpoints_stay(
    api: TrainerWorld, features: list[Path], tmp_path: Path
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
    api: TrainerWorld, features: list[Path], tmp_path: Path
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


@pytest.mark.parametrize("work", ["", "/tmp"])
def test_without_a_volume_that_nodes_share_nothing_is_started(
    api: TrainerWorld,
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


def as_a_node(node: Node, port: int) -> int:
    """Run the job's command as a process, with the variables that Trainer sets on a node."""
    trainer = node.body["spec"]["trainer"]
    environment = {
        **os.environ,
        **{variable["name"]: variable["value"] for variable in trainer["env"]},
        "PET_NNODES": str(trainer["numNodes"]),
        "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
        "PET_NODE_RANK": str(node.number),
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    with subprocess.Popen(
        [sys.executable, *trainer["command"][1:]],
        env=environment, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        for line in process.stdout or ():
            node.log(line.rstrip("\n"))
    return process.returncode


def test_two_nodes_train_what_two_ranks_here_train(
    api: TrainerWorld, features: list[Path], tmp_path: Path
) -> None:
    config = SHORT.model_copy(update={"dropout": 0.0, "attention_dropout": 0.0, "num_epochs": 1})
    port = free_port()
    api.run_node = lambda node: as_a_node(node, port)
    job = JOB.model_copy(
        update={"processes_per_node": 1, "max_pending_s": 300, "max_running_s": 300}
    )
    train_job.run(STEP, features, tmp_path / "two", config, job, poll_s=0.1)

    def train_here(rank: int) -> None:
        capture_pretraining.run(features[0], features[1], tmp_path / "one", config)

    with torchrun_store() as store:
        here = run_as_ranks(tmp_path, train_here, store)
    assert [rank.exit_code for rank in here] == [0, 0], here
    two, expected = (
        open_artifact(tmp_path / name, STEP).manifest.metrics for name in ("two", "one")
    )
    assert two == pytest.approx(expected, rel=1e-3)
