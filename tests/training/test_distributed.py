"""Two processes under `torchrun` train what one process trains, and go on after one was killed."""

import json
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from product1m.artifacts.folder import open_artifact
from product1m.capture.batches import PretrainingBatches
from product1m.capture.losses import contrastive_loss
from product1m.capture.tokens import train_tokenizer
from product1m.config import (
    CapturePretrainingConfig,
    RpnTrainingConfig,
    StepConfig,
    TrainingJobConfig,
)
from product1m.data.regions import FeatureSet
from product1m.detection.scene_batches import BatchSettings, SceneBatches, Scenes
from product1m.errors import ConfigError, TrainingError
from product1m.jobs import launch as launching
from product1m.jobs.torchrun import FailureLog
from product1m.steps import capture_pretraining, rpn_training
from product1m.steps.capture_pretraining import batch_settings
from product1m.training import distributed
from product1m.training.loop import train
from tests.support.paths import WORLDS
from tests.support.servers.ports import free_port
from tests.support.worlds.feature_artifacts import PRETRAINING, make_features
from tests.support.worlds.ranks import on_ranks
from tests.support.worlds.tiny_scenes import RPN, write_scenes
from tests.support.worlds.tiny_training import PLAN, batch_at, losses, make_network, silent

CAPTURE = PRETRAINING.model_copy(
    update={
        "image_text_matching_weight": 1.0,
        "batch_size": 13,
        "scene_batch_size": 7,
        "checkpoint_interval_steps": 5,
    }
)
"""Odd sizes, so that the two ranks hold different numbers of rows."""
PROPOSALS = RPN.model_copy(
    update={
        "cached_views": 0,
        "short_side_px": 32,
        "long_side_px": 64,
        "batch_size": 5,
        "num_epochs": 2,
        "checkpoint_interval_steps": 3,
    }
)
"""No jitter, and photos with fewer anchors than a step samples: nothing is random."""
TOLERANCE = 1e-5
"""Relative, of a loss; two orders of summation in float32 differ by 3e-7 here."""


def torchrun(
    step: str, config: StepConfig, folders: list[Path], curve: Path, processes: int, **extra: str
) -> subprocess.CompletedProcess[str]:
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    arguments = [WORLDS / "distributed_step.py", step, config.model_dump_json(), curve, *folders]
    command = [sys.executable, *start, f"--max-restarts={extra.pop('restarts', '0')}"]
    return subprocess.run(
        [*command, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **extra},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def curve_of_one_process(
    module: Any, config: StepConfig, folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> list[dict[str, float]]:
    curves = []

    def noted(*args: Any, **kwargs: Any) -> Any:
        curves.append(train(*args, **kwargs))
        return curves[0]

    monkeypatch.setattr(module, "train", noted)
    module.run(*folders, config)
    return curves[0]


def assert_same_curve(found: Path, expected: list[dict[str, float]]) -> None:
    curve = json.loads(found.read_text())
    assert [row["step"] for row in curve] == [row["step"] for row in expected]
    for mine, theirs in zip(curve, expected, strict=True):
        assert mine == pytest.approx(theirs, rel=TOLERANCE)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return list(make_features(tmp_path_factory.mktemp("features")))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes") / "scenes").folder


def test_two_ranks_end_like_ranks_that_were_not_killed(
    features: list[Path], tmp_path: Path
) -> None:
    """Dropout, masks and wrong photos included: they depend on seed, step and rank alone."""
    curves = []
    for name, extra in (("whole", {}), ("killed", {"restarts": "1", "DIE_AT_STEP": "8"})):
        curve = tmp_path / f"{name}.json"
        folders = [*features, tmp_path / name / "checkpoint"]
        done = torchrun("capture_pretraining", CAPTURE, folders, curve, 2, **extra)
        assert done.returncode == 0, done.stderr
        curves.append(json.loads(curve.read_text()))
    assert (tmp_path / "killed.json.died").exists()
    whole, killed = curves
    assert len(whole) == CAPTURE.num_epochs * (32 // 13)
    assert {"contrast", "image_text_matching", "scene_contrast"} < set(whole[0])
    assert killed == whole
    one, two = (
        open_artifact(tmp_path / name / "checkpoint", "capture_pretraining")
        for name in ("whole", "killed")
    )
    assert one.digest == two.digest
    assert not list((tmp_path / "killed/.work").iterdir()), "no checkpoints are left"


def test_the_rpn_trains_on_two_ranks_what_it_trains_on_one(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curve = tmp_path / "curve.json"
    done = torchrun("rpn_training", PROPOSALS, [scenes, tmp_path / "two"], curve, 2)
    assert done.returncode == 0, done.stderr
    expected = curve_of_one_process(
        rpn_training, PROPOSALS, [scenes, tmp_path / "one"], monkeypatch
    )
    assert_same_curve(curve, expected)
    two, one = (load_file(tmp_path / name / "model.safetensors") for name in ("two", "one"))
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-3, atol=1e-4)


def test_an_error_on_one_rank_ends_all_and_is_shown(features: list[Path], tmp_path: Path) -> None:
    folders = [*features, tmp_path / "checkpoint"]
    curve = tmp_path / "curve.json"
    done = torchrun("capture_pretraining", CAPTURE, folders, curve, 2, FAIL_AT_STEP="3")
    assert done.returncode != 0
    log = FailureLog()
    for line in done.stderr.splitlines():
        log.add(line)
    reasons = log.reason().split(" | ")  # rank 0 may add that its peer left
    assert "product1m.errors.DatasetError: shard-7: cut short" in reasons
    assert not (tmp_path / "checkpoint").exists()


def test_the_component_s_torchrun_writes_one_artifact_and_one_mlflow_run(
    features: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """`torchrun --standalone --nproc-per-node=2 -m product1m capture-pretraining …`, no less."""
    database = f"sqlite:///{tmp_path}/mlflow.db"
    mlflow.MlflowClient(database).search_experiments()  # makes the tables
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    config = CAPTURE.model_copy(update={"num_epochs": 1})
    pair = TrainingJobConfig(processes_per_node=2)
    metrics = launching.launch(
        "capture_pretraining",
        capture_pretraining.run,
        features,
        tmp_path / "checkpoint",
        config,
        pair,
    )
    artifact = open_artifact(tmp_path / "checkpoint", "capture_pretraining")
    artifact.verify()
    assert metrics == artifact.manifest.metrics
    assert artifact.manifest.config == config.model_dump(mode="json")
    (run,) = mlflow.MlflowClient(database).search_runs(["0"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["capture_pretraining/loss/total"] == metrics["loss/total"]
    printed = capfd.readouterr()
    assert printed.out.count("loss/total") == 1, "one rank reports"
    assert printed.err.count("capture pretraining: 2/2") == 1, "one rank shows progress"


@pytest.mark.parametrize("failing", [0, 1])
def test_a_rank_that_fails_after_the_last_step_ends_the_others(
    features: list[Path], tmp_path: Path, failing: int
) -> None:
    """Without torchrun, which would end them: on another node nobody does."""
    config = CAPTURE.model_copy(update={"num_epochs": 1})
    arguments = ["capture_pretraining", config.model_dump_json(), tmp_path / "curve.json"]
    command = [sys.executable, WORLDS / "distributed_step.py", *arguments]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            [*map(str, command), *map(str, features), str(tmp_path / "checkpoint")],
            env={
                **os.environ,
                **address,
                "RANK": str(rank),
                "OMP_NUM_THREADS": "1",
                "FAIL_AFTER_TRAINING": str(failing),
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    logs = [rank.communicate(timeout=240)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [1, 1]
    assert "No space left on device" in logs[failing]
    assert "another rank ended before the artifact was complete" in logs[1 - failing]
    assert list(tmp_path.glob(".work/*/checkpoint-*")), "the next attempt continues from it"


def test_an_error_of_the_step_ends_it_in_the_first_round(
    features: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TrainingError) as failure:
        launching.launch(
            "capture_pretraining",
            capture_pretraining.run,
            [features[0], tmp_path / "missing"],
            tmp_path / "checkpoint",
            CAPTURE,
            TrainingJobConfig(processes_per_node=2, max_restarts=3),
        )
    assert str(failure.value).startswith(
        f"capture_pretraining: {tmp_path}/missing: no manifest.json; expected a finished artifact"
    )
    log = capfd.readouterr().err
    assert "Traceback" not in log
    assert 1 <= log.count("error: ") <= 2, "one line a rank, in one round"


def test_processes_that_crash_are_started_again_and_the_step_ends_with_their_last_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(launching, "step_command", lambda *_: ["product1m.no_such_module"])
    pair = TrainingJobConfig(processes_per_node=2, max_restarts=1)
    with pytest.raises(
        TrainingError, match=r"(?s)code 1 after 1 restarts: .*No module named product1m.no_such"
    ):
        launching.launch(
            "capture_pretraining",
            capture_pretraining.run,
            [],
            tmp_path / "checkpoint",
            CAPTURE,
            pair,
        )
    assert len([message for message in caplog.messages if "starting them again" in message]) == 1


def test_ranks_share_rows_without_overlap_whatever_their_number(tmp_path: Path) -> None:
    def check(rank: int, folder: Path) -> None:
        for num_rows in (0, 1, 2, 3, 7, 8):
            mine = list(range(num_rows))[distributed.share(num_rows)]
            parts = distributed.gather_objects(mine)
            assert list(chain(*parts)) == list(range(num_rows))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1

    on_ranks(tmp_path, check, num_ranks=3)


def test_contrast_over_unequal_shares_has_the_loss_and_gradient_of_one_process(
    tmp_path: Path,
) -> None:
    def pair() -> tuple[Tensor, Tensor, Tensor]:
        left, right = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)).double()
        return left.requires_grad_(), right.requires_grad_(), torch.tensor([0, 1, 1, 3, 4])

    left, right, groups = pair()
    expected = contrastive_loss(left, right, groups, 0.3)
    torch.autograd.backward(expected)

    def check(rank: int, folder: Path) -> None:
        mine = slice(0, 5) if rank == 0 else slice(5, 5)  # the other rank holds nothing
        for rows in (distributed.share(5), mine):
            own_left, own_right, _ = pair()
            loss = contrastive_loss(own_left[rows], own_right[rows], groups[rows], 0.3)
            torch.autograd.backward(loss)
            torch.testing.assert_close(
                distributed.mean_over_ranks(loss.detach()[None])[0], expected.detach()
            )
            for found, wanted in ((own_left, left), (own_right, right)):
                assert found.grad is not None
                torch.testing.assert_close(distributed.mean_over_ranks(found.grad), wanted.grad)

    on_ranks(tmp_path, check)


def test_fewer_scenes_or_items_than_ranks_are_refused(
    features: list[Path], scenes: Path, tmp_path: Path
) -> None:
    read = Scenes(open_artifact(scenes, "background_synthesis"))
    items, pasted = (FeatureSet(open_artifact(folder, "feature_extraction")) for folder in features)
    tokenizer = train_tokenizer(items.rows["caption"].tolist(), 200)

    def check(rank: int, folder: Path) -> None:
        small = RpnTrainingConfig(**{**RPN.model_dump(), "batch_size": 1})
        with pytest.raises(ConfigError, match=r"batch_size=1: with 2 processes, some would get no"):
            SceneBatches(read, read.split("train"), BatchSettings.from_config(small))
        one = CapturePretrainingConfig(**{**PRETRAINING.model_dump(), "batch_size": 1})
        with pytest.raises(TrainingError, match=r"batches of 1 items leave none .* of 2 ranks"):
            PretrainingBatches(items, pasted, tokenizer, batch_settings(one))

    on_ranks(tmp_path, check)


def test_checkpoints_on_storage_that_only_one_node_sees_are_refused(tmp_path: Path) -> None:
    def check(rank: int, folder: Path) -> None:
        distributed.check_shared(folder)
        own = folder / str(rank)
        own.mkdir()
        with pytest.raises(TrainingError, match=r"ranks \[1\] do not see .*PRODUCT1M_WORK"):
            distributed.check_shared(own)
        assert not list(own.iterdir())

    on_ranks(tmp_path, check)


def test_a_loss_that_is_not_a_number_on_one_rank_stops_every_rank_with_its_items(
    tmp_path: Path,
) -> None:
    class Named(dict[str, Tensor]):
        item_ids = ("item-7",)

        def to(self, device: torch.device) -> "Named":
            return self

    def check(rank: int, folder: Path) -> None:
        def poisoned(index: int) -> Named:
            batch = Named(batch_at(index))
            if index == 2 and rank == 1:
                batch["sums"] = batch["sums"] / 0 * 0
            return batch

        with pytest.raises(TrainingError, match=r"step 2: .*nan.*item-7"):
            train(make_network(), losses, poisoned, PLAN, work=folder, report=silent)

    on_ranks(tmp_path, check)
