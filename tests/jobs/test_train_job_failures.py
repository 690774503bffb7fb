"""TrainJobs that fail, stay pending, run too long or cannot be reached: bounded, explained."""

import re
from pathlib import Path

import pytest

from product1m.artifacts.folder import open_artifact
from product1m.errors import RANK_EXIT_CODE, TrainingError
from product1m.jobs import kubernetes_api as cluster
from tests.support.worlds.train_jobs import JOB, STEP, assert_nothing_left, run, train, wait_for
from tests.support.worlds.trainer_world import Fault, Node, TrainerWorld


def test_broken_connections_and_server_errors_are_waited_out(
    api: TrainerWorld,
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
    api: TrainerWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.TrainJobApi.connect()
    away = cluster.TrainJobApi("shop", max_away_s=0.6)
    api.faults.append(Fault("GET", "trainjobs", 503, times=99))
    with pytest.raises(TrainingError, match=r"reading the TrainJob x: .*not answered.*Service"):
        away.get("x")


def test_a_missing_right_is_named(api: TrainerWorld, features: list[Path], tmp_path: Path) -> None:
    api.faults.append(Fault("POST", "trainjobs", 403))
    with pytest.raises(
        TrainingError, match=r"starting .*namespace shop.*403.*product1m-train-jobs"
    ):
        run(features, tmp_path)
    assert not api.created


def test_a_cluster_without_trainer_is_named(
    api: TrainerWorld, features: list[Path], tmp_path: Path
) -> None:
    api.faults.append(Fault("POST", "trainjobs", 404))
    with pytest.raises(TrainingError, match="is Kubeflow Trainer v2 installed"):
        run(features, tmp_path)


def test_a_job_that_finds_no_place_is_given_up_with_the_schedulers_reason(
    api: TrainerWorld, features: list[Path], tmp_path: Path
) -> None:
    api.unschedulable = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    job = JOB.model_copy(update={"max_pending_s": 1})
    with pytest.raises(TrainingError, match=r"(?s)max_pending_s = 1 s, 0 of 2 .*Insufficient nvid"):
        run(features, tmp_path, job)
    assert not api.jobs


def test_a_suspended_job_says_so(api: TrainerWorld, features: list[Path], tmp_path: Path) -> None:
    api.suspended = True
    with pytest.raises(TrainingError, match=r"pending .*it is suspended"):
        run(features, tmp_path, JOB.model_copy(update={"max_pending_s": 1}))
    assert not api.jobs


def test_a_job_that_trains_for_too_long_is_ended(
    api: TrainerWorld, features: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "LOG_SILENCE_S", 0.2)

    def endless(node: Node) -> int:
        node.stopped.wait(30)
        return 0

    api.run_node = endless
    with pytest.raises(TrainingError, match=r"running for more than .*max_running_s = 1"):
        run(features, tmp_path, JOB.model_copy(update={"max_running_s": 1}))
    assert not api.jobs


@pytest.mark.parametrize("rounds_left", [3, 0])
def test_an_error_of_the_step_ends_the_job_in_its_first_round(
    api: TrainerWorld, features: list[Path], tmp_path: Path, rounds_left: int
) -> None:
    """By the follower's decision, or because the cluster fails the job without another round."""

    def damaged(node: Node) -> int:
        node.log("some progress")
        if node.number == 0:
            if not rounds_left:  # only the pod with the step's error fails a job at once
                node.stopped.wait(30)
            node.log("[rank0]: RuntimeError: Connection closed by peer")
            for line in range(34):
                node.log(f"torchrun's farewell, line {line}")
            return 1
        node.log("error: /work/inputs/0/regions-00000.safetensors: damaged")
        return RANK_EXIT_CODE

    api.run_node = damaged
    api.max_restarts = rounds_left
    api.deletion = "never" if rounds_left else "at once"
    expected = r"failed\npod \S+-node-0-1-\w{5} ended with exit code 65 .*regions-00000.*: damaged$"
    with pytest.raises(TrainingError, match=expected):
        run(features, tmp_path)
    assert set(api.restarts.values()) == {0}
    assert not api.jobs
    assert not (tmp_path / "checkpoint").exists()
    assert_nothing_left(tmp_path)


def test_an_error_is_known_though_its_pod_is_deleted_at_once(
    api: TrainerWorld, features: list[Path], tmp_path: Path
) -> None:
    def damaged(node: Node) -> int:
        in_first_round = api.restarts[node.body["metadata"]["name"]] == 0
        if node.number == 1 and in_first_round:
            node.log("error: shard-7: cut short")
            api.wait_until_read("shard-7")  # Python and torchrun take a second or more to end
            return RANK_EXIT_CODE
        node.stopped.wait(30)
        return 0

    api.run_node = damaged
    api.deletion = "at once"
    with pytest.raises(TrainingError, match=r"node-0-1-\w{5} .*: shard-7: cut short$"):
        run(features, tmp_path)
    assert set(api.restarts.values()) == {1}, "the next round ends as soon as it is seen"


def test_a_lost_node_starts_a_new_round_and_the_log_says_why(
    api: TrainerWorld,
    features: list[Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def lost_once(node: Node) -> int:
        num_restarts = api.restarts[node.body["metadata"]["name"]]
        wait_for(lambda: caplog.text.count("all 2 nodes run") > num_restarts)
        if num_restarts == 0:
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
    api: TrainerWorld, features: list[Path], tmp_path: Path
) -> None:
    def crashes(node: Node) -> int:
        node.log("Traceback (most recent call last):")
        node.log("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB")
        return 1

    api.run_node = crashes
    with pytest.raises(TrainingError, match=r"(?s)ReachedMaxRestarts.*exit code 1 .*CUDA out of m"):
        run(features, tmp_path, JOB.model_copy(update={"max_restarts": 9}))
    assert set(api.restarts.values()) == {3}
    assert_nothing_left(tmp_path)


def test_the_step_restarts_no_more_often_than_it_is_configured(
    api: TrainerWorld, features: list[Path], tmp_path: Path
) -> None:
    api.run_node = lambda node: 1
    with pytest.raises(TrainingError, match=r"round 2 failed, and training_job.max_restarts is 1"):
        run(features, tmp_path, JOB.model_copy(update={"max_restarts": 1}))
    assert not api.jobs


def test_nodes_that_mount_another_volume_are_noticed(
    api: TrainerWorld, features: list[Path], tmp_path: Path
) -> None:
    api.run_node = lambda node: 0
    with pytest.raises(TrainingError, match="complete, but there is no artifact here; its pods"):
        run(features, tmp_path)


def test_a_job_that_somebody_removes_ends_the_step(
    api: TrainerWorld, features: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def removed(node: Node) -> int:
        if node.number == 0:
            api.remove(node.body["metadata"]["name"])
        return 0

    api.run_node = removed
    with pytest.raises(TrainingError, match="somebody deleted it"):
        run(features, tmp_path)
