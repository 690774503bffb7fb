"""A training step that is killed, ended or tried again, and the TrainJob of its earlier attempt."""

import signal
import threading
from pathlib import Path

import pytest

from product1m.artifacts.folder import open_artifact
from product1m.errors import TrainingError
from product1m.jobs import kubernetes_api as cluster
from tests.support.worlds.train_jobs import STEP, run, step_process, train, wait_for
from tests.support.worlds.trainer_world import Fault, Node, TrainerWorld


def test_a_step_tried_again_goes_on_with_the_job_of_the_attempt_before(
    api: TrainerWorld, features: list[Path], tmp_path: Path
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


def test_a_step_that_has_to_end_takes_its_job_with_it(
    api: TrainerWorld, features: list[Path], tmp_path: Path
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
    api: TrainerWorld, features: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
