"""Two processes under `torchrun` train what one process trains, and go on after one was killed."""

import json
import os
import signal
from collections.abc import Callable
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
    BackgroundSynthesisConfig,
    CapturePretrainingConfig,
    RpnTrainingConfig,
    StepConfig,
    TrainingJobConfig,
)
from product1m.data.regions import FeatureSet
from product1m.detection.scene_batches import SceneBatches, SceneBatchSettings, Scenes
from product1m.errors import ConfigError, DatasetError, TrainingError
from product1m.jobs import launch as launching
from product1m.jobs.torchrun import FailureLog
from product1m.steps import background_synthesis, capture_pretraining, rpn_training
from product1m.steps.capture_pretraining import batch_settings
from product1m.training import distributed
from product1m.training.loop import train
from tests.support.worlds.feature_artifacts import PRETRAINING, make_features
from tests.support.worlds.ranks import on_ranks, run_as_ranks, torchrun_store
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


def recorded(
    module: Any,
    config: StepConfig,
    folders: list[Path],
    curve: Path,
    disturb: Callable[[int, int], None] = lambda rank, step: None,
) -> Callable[[int], None]:
    """Run a step on a rank; rank 0 writes the loss curve of its first training.

    `disturb(rank, step)` is called before every step, and with -1 after the last one.
    """

    def work(rank: int) -> None:
        curves: list[Any] = []

        def train_and_record(
            network: Any, losses: Any, batch_at: Any, plan: Any, **rest: Any
        ) -> Any:
            def at(step: int) -> Any:
                disturb(rank, step)
                return batch_at(step)

            rows = train(network, losses, at, plan, **rest)
            disturb(rank, -1)
            curves.append(rows)
            if rank == 0:
                curve.write_text(json.dumps(curves[0]))
            return rows

        module.train = train_and_record  # in this process alone
        module.run(*folders, config)

    return work


def curve_of_one_process(
    module: Any, config: StepConfig, folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> list[dict[str, float]]:
    curves = []

    def noted(*args: Any, **kwargs: Any) -> Any:
        curves.append(train(*args, **kwargs))
        return curves[-1]

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

    def die(rank: int, step: int) -> None:
        died = tmp_path / "died"
        if (rank, step) == (1, 8) and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    curves, digests = [], []
    with torchrun_store() as store:
        for name, expected in (("whole", [[0, 0]]), ("killed", [[1, -signal.SIGKILL], [0, 0]])):
            curve, checkpoint = tmp_path / f"{name}.json", tmp_path / name / "checkpoint"
            disturb = {"disturb": die} if name == "killed" else {}
            work = recorded(capture_pretraining, CAPTURE, [*features, checkpoint], curve, **disturb)
            for exit_codes in expected:
                attempt = len(list(tmp_path.glob("rank-0-*.log")))
                ranks = run_as_ranks(tmp_path, work, store, attempt)
                assert [rank.exit_code for rank in ranks] == exit_codes, ranks
            curves.append(json.loads(curve.read_text()))
            digests.append(open_artifact(checkpoint, "capture_pretraining").digest)
    whole, killed = curves
    assert len(whole) == CAPTURE.num_epochs * -(-32 // 13)
    assert {"contrast", "image_text_matching", "scene_contrast"} < set(whole[0])
    assert killed == whole
    assert digests[0] == digests[1]
    assert not list(tmp_path.glob("killed/.work/*")), "no checkpoints are left"


def test_the_rpn_trains_on_two_ranks_what_it_trains_on_one(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curve = tmp_path / "curve.json"
    work = recorded(rpn_training, PROPOSALS, [scenes, tmp_path / "two"], curve)
    with torchrun_store() as store:
        ranks = run_as_ranks(tmp_path, work, store)
    assert [rank.exit_code for rank in ranks] == [0, 0], ranks
    expected = curve_of_one_process(
        rpn_training, PROPOSALS, [scenes, tmp_path / "one"], monkeypatch
    )
    assert_same_curve(curve, expected)
    two, one = (load_file(tmp_path / name / "model.safetensors") for name in ("two", "one"))
    # The second stage learns from proposals that differ in their last digits: one more or less over
    # a threshold is another example, so only its size is compared.
    for name, weight in one.items():
        if "familiarity" in name:  # so few products leave it as it is made
            assert torch.equal(two[name], weight), name
        elif "box_head" in name:
            assert float(two[name].norm() / weight.norm()) == pytest.approx(1, rel=0.1), name
        else:
            torch.testing.assert_close(two[name], weight, rtol=1e-3, atol=1e-4)


def test_an_error_on_one_rank_ends_all_and_is_shown(features: list[Path], tmp_path: Path) -> None:
    def fail(rank: int, step: int) -> None:
        if (rank, step) == (1, 3):
            raise DatasetError("shard-7: cut short")

    folders = [*features, tmp_path / "checkpoint"]
    work = recorded(capture_pretraining, CAPTURE, folders, tmp_path / "curve.json", fail)
    with torchrun_store() as store:
        ranks = run_as_ranks(tmp_path, work, store)
    assert [rank.exit_code for rank in ranks] == [1, 1], ranks
    log = FailureLog()
    for line in "".join(rank.log for rank in ranks).splitlines():
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
    assert printed.err.count("capture pretraining: 3/3") == 1, "one rank shows progress"


@pytest.mark.parametrize("failing", [0, 1])
def test_a_rank_that_fails_after_the_last_step_ends_the_others(
    features: list[Path], tmp_path: Path, failing: int
) -> None:
    """Without torchrun, which would end them: on another node nobody does."""

    def fail(rank: int, step: int) -> None:
        if (rank, step) == (failing, -1):
            raise OSError("No space left on device")

    config = CAPTURE.model_copy(update={"num_epochs": 1})
    folders = [*features, tmp_path / "checkpoint"]
    work = recorded(capture_pretraining, config, folders, tmp_path / "curve.json", fail)
    with torchrun_store() as store:
        ranks = run_as_ranks(tmp_path, work, store)
    assert [rank.exit_code for rank in ranks] == [1, 1]
    assert "No space left on device" in ranks[failing].log
    assert "another rank ended before the artifact was complete" in ranks[1 - failing].log
    assert list(tmp_path.glob(".work/*/checkpoint-*")), "the next attempt continues from it"


def test_an_error_of_the_step_ends_it_in_the_first_round(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With a step whose command does not have to load torch in two more processes.

    Both refuse the setting before they write anything: this step has no ranks, so one of two would
    wait for the other's output folder.
    """
    refused = BackgroundSynthesisConfig().model_copy(update={"num_scenes": -1})
    with pytest.raises(TrainingError) as failure:
        launching.launch(
            "background_synthesis",
            background_synthesis.run,
            [tmp_path / "missing"],
            tmp_path / "scenes",
            refused,
            TrainingJobConfig(processes_per_node=2, max_restarts=3),
        )
    assert str(failure.value) == (
        "background_synthesis: "
        "background_synthesis.num_scenes: Input should be greater than 0, got -1"
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
            SceneBatches(read, read.split("train"), SceneBatchSettings.from_config(small))
        single_items = CapturePretrainingConfig(**{**PRETRAINING.model_dump(), "batch_size": 1})
        with pytest.raises(TrainingError, match=r"batches of 1 items leave none .* of 2 ranks"):
            PretrainingBatches(items, pasted, tokenizer, batch_settings(single_items))

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
