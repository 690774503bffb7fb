import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from torch.multiprocessing.spawn import start_processes

from product1m.artifacts.folder import open_artifact
from product1m.capture.batches import PretrainingBatch, PretrainingBatches
from product1m.capture.instance_recall import recall_at
from product1m.capture.network import load_capture
from product1m.data.regions import FeatureSet
from product1m.errors import ArtifactError
from product1m.steps import capture_pretraining
from product1m.storage.base import sha256_of
from tests.support.paths import ROOT
from tests.support.worlds.changed_manifests import rewrite_manifest
from tests.support.worlds.feature_artifacts import (
    NUM_ITEMS,
    PRETRAINING,
    caption_of,
    make_features,
    make_scenes,
)

CONFIG = PRETRAINING.model_copy(update={"num_epochs": 60})
SHORT = PRETRAINING


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_features(tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="module")
def trained(features: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "checkpoint"
    capture_pretraining.run(*features, folder, CONFIG)
    return folder


def _metrics(folder: Path) -> dict[str, float]:
    return open_artifact(folder, "capture_pretraining").manifest.metrics


def test_an_instance_of_a_held_out_scene_finds_its_source_better_than_by_raw_features(
    trained: Path,
) -> None:
    metrics = _metrics(trained)
    for depth in (1, 10):
        raw = metrics[f"held_out/instance_recall@{depth}/raw"]
        assert metrics[f"held_out/instance_recall@{depth}"] > raw + 0.1
    assert metrics["num_steps"] == 60 * (NUM_ITEMS // 12)


def test_the_artifact_is_all_that_embedding_needs(
    trained: Path, features: tuple[Path, Path]
) -> None:
    artifact = open_artifact(trained, "capture_pretraining")
    assert set(artifact.manifest.files) == {
        "losses.png",
        "model.safetensors",
        "tokenizer/tokenizer.json",
    }
    loaded = load_capture(artifact)
    items = FeatureSet(open_artifact(features[0], "feature_extraction", "train"))
    photos = [items.regions(row) for row in range(NUM_ITEMS)]
    captions = [caption_of(row) for row in range(NUM_ITEMS)]
    together = loaded.embed(captions, photos)
    for name, rows in vars(together).items():
        assert rows.shape == (NUM_ITEMS, CONFIG.projection_dim)
        assert rows.dtype == np.float32
        one_by_one = [
            vars(loaded.embed([caption], [photo]))[name][0]
            for caption, photo in zip(captions, photos, strict=True)
        ]
        np.testing.assert_allclose(rows, np.stack(one_by_one), atol=1e-5)


def test_raw_recall_in_the_manifest_equals_plain_loops(
    trained: Path, features: tuple[Path, Path]
) -> None:
    items = FeatureSet(open_artifact(features[0], "feature_extraction", "train"))
    scenes = FeatureSet(open_artifact(features[1], "feature_extraction", "scenes"))
    regions = np.concatenate([items.regions(i).features for i in range(NUM_ITEMS)]).astype(float)
    mean, deviation = regions.mean(0), regions.std(0)
    frame, vectors = scenes.instances()
    hits = []
    for place, instance in enumerate(frame.to_dict("records")):
        if scenes.rows["split"][instance["scene"]] != "held_out":
            continue
        query = (vectors[place] - mean) / deviation
        cosines = []
        for row in range(NUM_ITEMS):
            photo = (items.regions(row).features[0] - mean) / deviation
            cosine = query @ photo / np.linalg.norm(query) / np.linalg.norm(photo)
            cosines.append((cosine, f"item-{row}"))
        hits.append(max(cosines)[1] == instance["source_id"])
    expected = sum(hits) / len(hits)
    assert _metrics(trained)["held_out/instance_recall@1/raw"] == pytest.approx(expected)


def test_recall_counts_an_item_of_the_sources_group() -> None:
    queries, gallery = np.eye(3), np.eye(3)
    groups = np.array([7, 8, 9])
    assert recall_at(1, queries, gallery, groups, groups) == 1.0
    assert recall_at(1, queries, gallery, groups, groups[[1, 0, 2]]) == pytest.approx(1 / 3)
    assert recall_at(3, queries, gallery, groups, groups[[1, 0, 2]]) == 1.0


def test_the_same_inputs_and_seed_give_the_same_digest(
    features: tuple[Path, Path], tmp_path: Path
) -> None:
    digests = set()
    for name in ("one", "two"):
        capture_pretraining.run(*features, tmp_path / name, SHORT)
        digests.add(open_artifact(tmp_path / name, "capture_pretraining").digest)
    assert len(digests) == 1
    other = SHORT.model_copy(update={"seed": 1})
    capture_pretraining.run(*features, tmp_path / "other", other)
    assert open_artifact(tmp_path / "other", "capture_pretraining").digest not in digests


SCRIPT = """
import sys, time
from pathlib import Path
from tests.support.worlds.feature_artifacts import PRETRAINING as SHORT
from product1m.capture.batches import PretrainingBatches
from product1m.steps import capture_pretraining
quick = PretrainingBatches.__call__
def slow(self, index):
    time.sleep(0.2)
    return quick(self, index)
PretrainingBatches.__call__ = slow
capture_pretraining.run(*map(Path, sys.argv[1:]), SHORT)
"""


def test_a_killed_run_ends_with_the_same_weights_when_run_again(
    features: tuple[Path, Path], tmp_path: Path
) -> None:
    capture_pretraining.run(*features, tmp_path / "whole", SHORT)
    folder = tmp_path / "killed" / "checkpoint"
    arguments = [sys.executable, "-c", SCRIPT, *map(str, features), str(folder)]
    process = subprocess.Popen(arguments, cwd=ROOT)
    while not list(folder.parent.glob(".work/*/checkpoint-*/state.json")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not folder.exists()
    metrics = capture_pretraining.run(*features, folder, SHORT)
    whole = open_artifact(tmp_path / "whole", "capture_pretraining")
    assert open_artifact(folder, "capture_pretraining").digest == whole.digest
    assert metrics == whole.manifest.metrics
    assert not list(folder.parent.glob(".work/*")), "nothing is left behind"


def test_two_ranks_train_one_network_on_batches_they_share(
    features: tuple[Path, Path], tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"num_epochs": 40})
    arguments = (tmp_path, *features, config)
    start_processes(_one_rank, arguments, nprocs=2, start_method="fork")  # type: ignore[no-untyped-call]
    metrics = _metrics(tmp_path / "checkpoint")
    assert metrics["num_steps"] == 40 * (NUM_ITEMS // 12)
    assert metrics["held_out/instance_recall@1"] > metrics["held_out/instance_recall@1/raw"] + 0.1
    shares = [set(json.loads((tmp_path / f"{rank}.json").read_text())) for rank in range(2)]
    assert shares[0].isdisjoint(shares[1])
    assert len(shares[0] | shares[1]) == 12


def _one_rank(rank: int, folder: Path, train: Path, scenes: Path, config: Any) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
    os.environ |= {"MASTER_PORT": str(30_000 + os.getppid() % 20_000)}  # as torchrun sets them
    make_batch = PretrainingBatches.__call__

    def noted(self: PretrainingBatches, index: int) -> PretrainingBatch:
        batch = make_batch(self, index)
        if index == 0:
            ids = batch.item_ids[: batch.num_items]
            (folder / f"{rank}.json").write_text(json.dumps(ids))
        return batch

    PretrainingBatches.__call__ = noted  # type: ignore[method-assign]
    capture_pretraining.run(train, scenes, folder / "checkpoint", config)


def test_bf16_learns_too(features: tuple[Path, Path], tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"precision": "bf16", "num_epochs": 30})
    metrics = capture_pretraining.run(*features, tmp_path / "checkpoint", config)
    assert metrics["held_out/instance_recall@1"] > metrics["held_out/instance_recall@1/raw"]
    weights = load_file(tmp_path / "checkpoint/model.safetensors")
    assert {str(array.dtype) for array in weights.values()} == {"float32"}


def test_loss_curves_and_the_picture_are_in_mlflow(
    features: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    metrics = capture_pretraining.run(*features, tmp_path / "checkpoint", SHORT)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = client.search_runs(["0"])
    logged = client.get_metric_history(run.info.run_id, "capture_pretraining/loss/contrast")
    curve = {point.step: point.value for point in logged if point.step}
    assert list(curve) == list(range(1, 13))
    assert curve[12] == pytest.approx(metrics["loss/contrast"])
    assert curve[12] < curve[1]
    assert client.list_artifacts(run.info.run_id, "capture_pretraining")[0].path.endswith("png")


def test_features_of_two_rpns_are_refused(tmp_path: Path) -> None:
    features = make_features(tmp_path, rpn="another")
    with pytest.raises(ArtifactError, match=r"features of the RPN another, but .* of rpn; extract"):
        capture_pretraining.run(*features, tmp_path / "checkpoint", SHORT)


def test_a_feature_set_in_the_wrong_place_is_refused(
    features: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match="expected an artifact of feature_extraction train"):
        capture_pretraining.run(*features[::-1], tmp_path / "checkpoint", SHORT)


def test_without_held_out_scenes_there_is_nothing_to_measure(
    features: tuple[Path, Path], tmp_path: Path
) -> None:
    scenes = make_scenes(tmp_path / "scenes", 3, NUM_ITEMS)
    config = SHORT.model_copy(update={"num_epochs": 1})
    metrics = capture_pretraining.run(features[0], scenes, tmp_path / "checkpoint", config)
    assert not [name for name in metrics if name.startswith("held_out")]


def test_weights_that_do_not_fit_the_manifest_are_named(trained: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    weights = load_file(trained / "model.safetensors")
    del weights["joint.norm.weight"]
    save_file(weights, broken / "model.safetensors")
    (broken / "tokenizer").mkdir()
    (broken / "tokenizer/tokenizer.json").write_bytes(
        (trained / "tokenizer/tokenizer.json").read_bytes()
    )
    shutil.copy(trained / "manifest.json", broken)
    sha256 = sha256_of(broken / "model.safetensors")
    entry = {"model.safetensors": {"sha256": sha256, "num_bytes": 1}}
    rewrite_manifest(broken, lambda values: values["files"].update(entry))
    with pytest.raises(ArtifactError, match=r"(?s)weights that its manifest describes .*joint"):
        load_capture(open_artifact(broken, "capture_pretraining"))


def test_a_disk_that_is_full_leaves_no_artifact(
    features: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(capture_pretraining, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        capture_pretraining.run(*features, tmp_path / "checkpoint", SHORT)
    assert not (tmp_path / "checkpoint").exists()
    assert list(tmp_path.glob(".work/*/checkpoint-*")), "the training itself is not lost"
