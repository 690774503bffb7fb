import json
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from product1m.artifacts.folder import open_artifact
from product1m.capture.batches import PretrainingBatch, PretrainingBatches, feature_moments
from product1m.capture.instance_recall import recall_at
from product1m.capture.network import load_capture
from product1m.config import CapturePretrainingConfig
from product1m.data.regions import FeatureSet
from product1m.errors import ArtifactError, ConfigError
from product1m.steps import capture_pretraining
from product1m.storage.base import sha256_of
from product1m.storage.disk import DiskError
from tests.support.processes import hold_when, kill_when
from tests.support.worlds import feature_artifacts
from tests.support.worlds.changed_manifests import rewrite_manifest
from tests.support.worlds.feature_artifacts import (
    NUM_ITEMS,
    PRETRAINING,
    caption_of,
    make_features,
    make_scenes,
    make_train,
)
from tests.support.worlds.ranks import run_as_ranks, torchrun_store

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


@pytest.fixture(scope="module")
def short(features: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few epochs of the same training."""
    folder = tmp_path_factory.mktemp("short") / "checkpoint"
    capture_pretraining.run(*features, folder, SHORT)
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
    assert metrics["num_steps"] == 60 * -(-NUM_ITEMS // 12)


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
    features: tuple[Path, Path], short: Path, tmp_path: Path
) -> None:
    for name, config in (("again", SHORT), ("other", SHORT.model_copy(update={"seed": 1}))):
        capture_pretraining.run(*features, tmp_path / name, config)
    first, again, other = (
        open_artifact(folder, "capture_pretraining").digest
        for folder in (short, tmp_path / "again", tmp_path / "other")
    )
    assert first == again
    assert first != other


def test_a_killed_run_ends_with_the_same_weights_when_run_again(
    features: tuple[Path, Path], short: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "killed" / "checkpoint"
    make_batch = PretrainingBatches.__call__

    def has_checkpoint() -> bool:
        return any(folder.parent.glob(".work/*/checkpoint-*/state.json"))

    def held(self: PretrainingBatches, index: int) -> PretrainingBatch:
        hold_when(has_checkpoint)
        return make_batch(self, index)

    def train_until_held() -> None:
        PretrainingBatches.__call__ = held  # type: ignore[method-assign]
        capture_pretraining.run(*features, folder, SHORT)

    kill_when(has_checkpoint, train_until_held)
    assert not folder.exists()
    metrics = capture_pretraining.run(*features, folder, SHORT)
    whole = open_artifact(short, "capture_pretraining")
    assert open_artifact(folder, "capture_pretraining").digest == whole.digest
    assert metrics == whole.manifest.metrics
    assert not list(folder.parent.glob(".work/*")), "nothing is left behind"


def test_two_ranks_train_one_network_on_batches_they_share(
    features: tuple[Path, Path], tmp_path: Path
) -> None:
    config = SHORT.model_copy(update={"num_epochs": 1})
    make_batch = PretrainingBatches.__call__

    def train_and_note(rank: int) -> None:
        def noted(self: PretrainingBatches, index: int) -> PretrainingBatch:
            batch = make_batch(self, index)
            if index == 0:
                ids = batch.item_ids[: batch.num_items]
                (tmp_path / f"{rank}.json").write_text(json.dumps(ids))
            return batch

        PretrainingBatches.__call__ = noted  # type: ignore[method-assign]
        capture_pretraining.run(*features, tmp_path / "checkpoint", config)

    with torchrun_store() as store:
        ranks = run_as_ranks(tmp_path, train_and_note, store)
    assert [rank.exit_code for rank in ranks] == [0, 0], ranks
    assert _metrics(tmp_path / "checkpoint")["num_steps"] == -(-NUM_ITEMS // 12)
    shares = [set(json.loads((tmp_path / f"{rank}.json").read_text())) for rank in range(2)]
    assert shares[0].isdisjoint(shares[1])
    assert len(shares[0] | shares[1]) == NUM_ITEMS // 3


def test_bf16_learns_what_float32_learns(
    features: tuple[Path, Path], short: Path, tmp_path: Path
) -> None:
    config = SHORT.model_copy(update={"precision": "bf16"})
    metrics = capture_pretraining.run(*features, tmp_path / "checkpoint", config)
    expected = _metrics(short)
    assert metrics["loss/total"] == pytest.approx(expected["loss/total"], rel=0.05)
    assert metrics["loss/total"] != expected["loss/total"]
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
    assert list(curve) == list(range(1, 19))
    assert curve[18] == pytest.approx(metrics["loss/contrast"])
    assert curve[18] < curve[1]
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
    with pytest.raises(DiskError, match="the disk is full"):
        capture_pretraining.run(*features, tmp_path / "checkpoint", SHORT)
    assert not (tmp_path / "checkpoint").exists()
    assert list(tmp_path.glob(".work/*/checkpoint-*")), "the training itself is not lost"


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same products and four new ones."""
    folder = tmp_path_factory.mktemp("more")
    train = make_train(folder / "train", NUM_ITEMS + 4, noise=2.0)
    return train, make_scenes(folder / "scenes", 40, NUM_ITEMS + 4, noise=2.0)


def test_a_training_starts_from_the_weights_and_words_of_a_model_with_fewer_passes(
    trained: Path, more: tuple[Path, Path], tmp_path: Path
) -> None:
    still = {"warm_start": str(trained), "warm_share": 0.05, "learning_rate": 1e-12}
    capture_pretraining.run(*more, tmp_path / "warm", CONFIG.model_copy(update=still))
    weights, model = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "warm", trained)
    )
    items = FeatureSet(open_artifact(more[0], "feature_extraction", "train"))
    mean, _ = feature_moments(items)
    np.testing.assert_allclose(weights.pop("standardization.mean"), mean, rtol=1e-5, atol=1e-6)
    assert np.abs(model["standardization.mean"] - mean).max() > 1e-3
    del weights["standardization.deviation"]
    for name, values in weights.items():
        np.testing.assert_allclose(values, model[name], rtol=1e-4, atol=1e-6)
    words = Path("tokenizer") / "tokenizer.json"
    assert (tmp_path / "warm" / words).read_bytes() == (trained / words).read_bytes()
    assert _metrics(tmp_path / "warm")["num_steps"] == 3 * (NUM_ITEMS + 4) // 12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_dim": 64, "text_heads": 4}, "hidden_dim is 32 there and 64 here; text_heads"),
        ({"masked_region_weight": 0}, "masked_region_weight is 1.0 there and 0.0 here"),
        ({"text_model": "bert-base-chinese"}, "text_model is scratch there"),
    ],
)
def test_a_training_does_not_start_from_weights_that_do_not_fit(
    changes: dict[str, object],
    message: str,
    trained: Path,
    features: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    settings = {**SHORT.model_dump(), **changes, "warm_start": str(trained)}
    config = CapturePretrainingConfig.model_validate(settings)
    with pytest.raises(ConfigError, match=message):
        capture_pretraining.run(*features, tmp_path / "out", config)
    assert not (tmp_path / "out").exists()


def test_a_training_does_not_start_from_a_model_that_does_not_know_the_words(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_artifacts, "caption_of", lambda number: "驛 驢 red blue")
    others = make_features(tmp_path / "features")
    config = SHORT.model_copy(update={"warm_start": str(trained)})
    with pytest.raises(ConfigError, match="does not know 50% of the words in the titles"):
        capture_pretraining.run(*others, tmp_path / "out", config)


def test_a_training_does_not_start_from_a_model_of_other_region_vectors(
    trained: Path, tmp_path: Path
) -> None:
    train = make_train(tmp_path / "train", NUM_ITEMS, feature_dim=24)
    scenes = make_scenes(tmp_path / "scenes", 40, NUM_ITEMS, feature_dim=24)
    config = SHORT.model_copy(update={"warm_start": str(trained)})
    with pytest.raises(ConfigError, match="region vectors of 16 numbers, and the items' have 24"):
        capture_pretraining.run(train, scenes, tmp_path / "out", config)


def test_a_model_to_start_from_that_is_not_there_is_named(
    features: tuple[Path, Path], tmp_path: Path
) -> None:
    config = SHORT.model_copy(update={"warm_start": str(tmp_path / "nowhere")})
    with pytest.raises(ArtifactError, match=r"nowhere: no manifest\.json; expected a finished"):
        capture_pretraining.run(*features, tmp_path / "out", config)
