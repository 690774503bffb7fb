"""Steps that train on the nodes of a TrainJob, and what the nodes of a test do."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from product1m.artifacts.folder import write_artifact
from product1m.config import TrainingJobConfig
from product1m.jobs import train_job
from tests.support.worlds.feature_artifacts import PRETRAINING as SHORT
from tests.support.worlds.trainer_world import Node

STEP = "capture_pretraining"
JOB = TrainingJobConfig(num_nodes=2, processes_per_node=4, max_pending_s=60, max_running_s=60)
_SCRIPT = """
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


def run(features: list[Path], folder: Path, job: TrainingJobConfig = JOB) -> None:
    train_job.run(STEP, features, folder / "checkpoint", SHORT, job, poll_s=0.02)


def step_process(features: list[Path], checkpoint: Path) -> "subprocess.Popen[str]":
    section, job = SHORT.model_dump_json(), JOB.model_dump_json()
    folders = [*map(str, features), str(checkpoint)]
    command = [sys.executable, "-c", _SCRIPT, section, job, *folders]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def assert_nothing_left(folder: Path) -> None:
    assert not list((folder / "work/train-jobs").iterdir()), "nothing stays on the volume"
