"""RPN training: finds products it never saw, goes on after a kill, draws what it finds."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from product1m.artifacts.folder import Artifact, open_artifact
from product1m.detection.map_cache import CacheSettings, cache_maps
from product1m.detection.measuring import (
    BACKBONE_KEPT,
    IMAGE_ONLY,
    IMAGE_ONLY_BEFORE,
    IMAGE_ONLY_TRAINED,
)
from product1m.detection.proposals import MODEL, NetworkSettings, ProposalNetwork
from product1m.detection.scene_batches import (
    SceneBatch,
    SceneBatches,
    SceneBatchSettings,
    Scenes,
    losses,
)
from product1m.errors import ConfigError, DatasetError
from product1m.steps import rpn_training
from tests.support.processes import hold_when, kill_when
from tests.support.worlds.tiny_scenes import RPN, write_scenes

JITTERED = RPN.model_copy(update={"color_jitter": 0.2, "scale_jitter": 0.3})
SLOW = RPN.model_copy(update={"num_epochs": 16, "checkpoint_interval_steps": 10})


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_scenes(tmp_path_factory.mktemp("scenes") / "scenes")


@pytest.fixture(scope="module")
def checkpoint(scenes: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("rpn") / "rpn"
    rpn_training.run(scenes.folder, folder, SLOW)
    return open_artifact(folder, "rpn_training")


def test_it_finds_more_products_than_baselines_with_as_many_boxes(checkpoint: Artifact) -> None:
    metrics = checkpoint.manifest.metrics
    assert metrics["recall@0.5/36"] > 0.8
    for depth in (36, 100):
        assert metrics[f"AR@{depth}"] > metrics[f"usual_places/AR@{depth}"]
    of_one_box = {f"{box}/AR@{n}" for box in ("whole_image", "grabcut_box") for n in (1, 10, 36)}
    assert of_one_box & metrics.keys() == {"whole_image/AR@1", "grabcut_box/AR@1"}
    assert metrics["AR@1"] <= metrics["AR@10"] <= metrics["AR@36"] <= metrics["AR@100"]
    assert metrics["instances/true"] == 2
    assert IMAGE_ONLY not in metrics  # a frozen backbone keeps what it had


def test_the_checkpoint_says_what_features_it_gives_and_draws_its_proposals(
    checkpoint: Artifact,
) -> None:
    assert checkpoint.manifest.details["feature_dim"] == 320
    assert checkpoint.manifest.details["backbone"] == RPN.backbone
    picture = cv2.imread(str(checkpoint.file("proposals.png")))
    assert picture is not None
    assert min(picture.shape[:2]) > 300
    assert not list(checkpoint.folder.parent.glob(".work/*"))


def test_a_training_starts_from_the_weights_of_a_model(
    checkpoint: Artifact, scenes: Artifact, tmp_path: Path
) -> None:
    still = {"warm_start": str(checkpoint.folder), "warm_share": 0.01, "learning_rate": 1e-12}
    config = SLOW.model_copy(update=still)
    rpn_training.run(scenes.folder, tmp_path / "warm", config)
    (origin,) = open_artifact(tmp_path / "warm", "rpn_training").manifest.details["pretrained"]
    assert origin == checkpoint.manifest.details["pretrained"][0]
    assert origin["source"] == config.weights
    weights = load_file(tmp_path / "warm" / MODEL)
    model = load_file(checkpoint.file(MODEL))
    assert weights.keys() == model.keys()
    network = ProposalNetwork(NetworkSettings.from_config(config), config.weights)
    for name, _ in network.named_parameters():
        torch.testing.assert_close(weights[name], model[name], rtol=1e-4, atol=1e-6)
    wider = config.model_copy(update={"fpn_channels": 2 * SLOW.fpn_channels})
    with pytest.raises(ConfigError, match="fpn_channels is 16 there and 32 here"):
        rpn_training.run(scenes.folder, tmp_path / "wider", wider)


def test_training_killed_midway_ends_with_the_same_weights(
    scenes: Artifact, checkpoint: Artifact, tmp_path: Path
) -> None:
    make_batch = SceneBatches.__call__

    def has_checkpoint() -> bool:
        return any(tmp_path.glob(".work/*/checkpoint-*/state.json"))

    def held(self: SceneBatches, number: int) -> SceneBatch:
        hold_when(has_checkpoint)
        return make_batch(self, number)

    def train_until_held() -> None:
        SceneBatches.__call__ = held  # type: ignore[method-assign]
        rpn_training.run(scenes.folder, tmp_path / "rpn", SLOW)

    kill_when(has_checkpoint, train_until_held)
    assert not (tmp_path / "rpn").exists()
    (left,) = tmp_path.glob(".work/*/checkpoint-*")
    assert 0 < int(left.name.removeprefix("checkpoint-")) < 72

    metrics = rpn_training.run(scenes.folder, tmp_path / "rpn", SLOW)
    resumed = load_file(tmp_path / "rpn" / MODEL)
    for name, expected in load_file(checkpoint.file(MODEL)).items():
        torch.testing.assert_close(resumed[name], expected, rtol=1e-5, atol=1e-6)
    for name, value in checkpoint.manifest.metrics.items():
        assert metrics[name] == pytest.approx(value, abs=1e-6), name


def test_every_pass_shows_every_training_scene_once(scenes: Artifact) -> None:
    read = Scenes(scenes)
    positions = read.split("train")
    batches = SceneBatches(read, positions, SceneBatchSettings.from_config(RPN))
    assert batches.num_steps == -(-RPN.num_epochs * len(positions) // RPN.batch_size)
    shown = [name for number in range(batches.num_steps) for name in batches(number).item_ids]
    passes = [
        shown[start : start + len(positions)] for start in range(0, len(shown), len(positions))
    ]
    whole = [ids for ids in passes if len(ids) == len(positions)]
    assert len(whole) == RPN.num_epochs
    assert all(sorted(ids) == sorted(read.id(i) for i in positions) for ids in whole)
    assert whole[0] != whole[1]


def test_a_batch_is_a_function_of_its_number_and_keeps_boxes_on_products(scenes: Artifact) -> None:
    read = Scenes(scenes)
    positions = read.split("train")
    batches = [
        SceneBatches(read, positions, SceneBatchSettings.from_config(JITTERED)) for _ in range(2)
    ]
    sizes = set()
    for number in (5, 3, 0):
        first, second = (made(number) for made in batches)
        assert isinstance(first.inputs, torch.Tensor)
        assert isinstance(second.inputs, torch.Tensor)
        assert torch.equal(first.inputs, second.inputs)
        sizes.add(first.inputs.shape)
        for photo, boxes in zip(first.inputs, first.boxes_xyxy, strict=True):
            for left, top, right, bottom in boxes.round().int().tolist():
                product = photo[:, top + 3 : bottom - 3, left + 3 : right - 3].float()
                assert product.std(dim=(1, 2)).max() < 25  # one color, whatever the jitter
    assert len(sizes) > 1


def test_cached_maps_give_the_losses_of_the_photos(scenes: Artifact) -> None:
    read = Scenes(scenes)
    positions = read.split("train")
    torch.manual_seed(0)
    network = ProposalNetwork(NetworkSettings.from_config(RPN), RPN.weights).eval()
    cached = cache_maps(network, read.items, positions, CacheSettings.from_config(RPN))
    assert cached is not None
    for number in (0, 4):
        both = []
        for source in (cached, None):
            torch.manual_seed(0)
            batch = SceneBatches(read, positions, SceneBatchSettings.from_config(RPN), source)(
                number
            )
            assert isinstance(batch.inputs, list) == (source is not None)
            found = losses(network, batch)
            both.append({name: float(value.detach()) for name, value in found.items()})
        assert both[0] == pytest.approx(both[1], rel=1e-2)


@pytest.mark.parametrize("cached_views", [0, 1])
def test_scenes_in_parts_have_the_losses_and_gradients_of_the_whole_batch(
    scenes: Artifact, cached_views: int
) -> None:
    config = RPN.model_copy(update={"cached_views": cached_views})
    read = Scenes(scenes)
    positions = read.split("train")
    computed = []
    for num_parts in (1, 3):
        torch.manual_seed(0)
        network = ProposalNetwork(NetworkSettings.from_config(config), config.weights)
        cached = cache_maps(network, read.items, positions, CacheSettings.from_config(config))
        settings = SceneBatchSettings.from_config(config)
        batch = SceneBatches(read, positions, settings, cached)(0)
        torch.manual_seed(0)  # draws the anchors
        terms = losses(network, batch, num_parts)
        torch.autograd.backward(terms["objectness"] + terms["boxes"])
        computed.append((terms, [parameter.grad for parameter in network.parameters()]))
    torch.testing.assert_close(computed[1], computed[0], rtol=1e-4, atol=1e-5)


def test_views_differ_in_size_and_color_and_take_turns(scenes: Artifact) -> None:
    changes = {"cached_views": 2, "scale_jitter": 0.5, "color_jitter": 0.3}
    config = RPN.model_copy(update=changes)
    read = Scenes(scenes)
    positions = read.split("train")
    network = ProposalNetwork(NetworkSettings.from_config(config), config.weights)
    cached = cache_maps(network, read.items, positions, CacheSettings.from_config(config))
    assert cached is not None
    batches = SceneBatches(read, positions, SceneBatchSettings.from_config(config), cached)
    for number, side_px in ((0, 72), (1, 120), (2, 72)):  # 96 times 0.75 and 1.25
        batch = batches(number)
        assert isinstance(batch.inputs, list)
        assert batch.inputs[-1].shape[2:] == (-(-side_px // 32),) * 2
        position = next(i for i in positions if read.id(i) == batch.item_ids[0])
        expected = np.sort(read.boxes_xyxy[position] * side_px / 96, axis=0)
        np.testing.assert_allclose(np.sort(batch.boxes_xyxy[0], axis=0), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "changes", [{"cached_views": 0}, {"trainable_stages": 1}, {"feature_cache_mib": 0}]
)
def test_maps_are_not_cached_where_they_change_or_do_not_fit(
    scenes: Artifact, changes: dict[str, float]
) -> None:
    config = RPN.model_copy(update=changes)
    read = Scenes(scenes)
    network = ProposalNetwork(NetworkSettings.from_config(config), config.weights)
    settings = CacheSettings.from_config(config)
    assert cache_maps(network, read.items, read.split("train"), settings) is None


def test_backbone_stages_train_in_bf16_on_jittered_scenes(scenes: Artifact, tmp_path: Path) -> None:
    changes = {"trainable_stages": 1, "precision": "bf16", "num_epochs": 1, "learning_rate": 1e-3}
    config = JITTERED.model_copy(update=changes)
    metrics = rpn_training.run(scenes.folder, tmp_path / "rpn", config)
    torch.manual_seed(config.seed)
    before = ProposalNetwork(NetworkSettings.from_config(config), config.weights).state_dict()
    after = load_file(tmp_path / "rpn" / MODEL)
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert {name for name in changed if name.startswith("backbone")} == {
        name
        for name in before
        if name.startswith(("backbone.body.blocks.5", "backbone.body.blocks.6"))
        and "bn" not in name
    }
    assert all(np.isfinite(value) for value in metrics.values())
    assert 0 <= metrics[IMAGE_ONLY] <= 1
    assert 0 <= metrics[IMAGE_ONLY_BEFORE] <= 1


def test_a_backbone_trains_with_instances(tmp_path: Path) -> None:
    scenes = write_scenes(tmp_path / "scenes", num_scenes=8, num_sources=5)
    changes = {"trainable_stages": 1, "instance_weight": 1.0, "num_epochs": 1, "box_num_epochs": 1}
    config = RPN.model_copy(update=changes)
    metrics = rpn_training.run(scenes.folder, tmp_path / "rpn", config)
    kept = metrics[IMAGE_ONLY_TRAINED] >= metrics[IMAGE_ONLY_BEFORE]
    assert metrics[BACKBONE_KEPT] == float(kept)
    assert metrics[IMAGE_ONLY] == metrics[IMAGE_ONLY_TRAINED if kept else IMAGE_ONLY_BEFORE]
    before = ProposalNetwork(NetworkSettings.from_config(config), config.weights).state_dict()
    after = load_file(tmp_path / "rpn" / MODEL)
    backbone = [name for name in before if name.startswith("backbone")]
    assert all(torch.equal(after[name], before[name]) for name in backbone) != kept


def test_training_with_instances_needs_the_source_photos(scenes: Artifact, tmp_path: Path) -> None:
    config = RPN.model_copy(update={"trainable_stages": 1, "instance_weight": 1.0})
    with pytest.raises(DatasetError, match=r"set background_synthesis\.keep_sources=true"):
        rpn_training.run(scenes.folder, tmp_path / "rpn", config)


def test_scenes_without_a_held_out_part_are_refused_before_training(tmp_path: Path) -> None:
    alone = write_scenes(tmp_path / "scenes", num_scenes=4, splits=("train",))
    with pytest.raises(DatasetError, match=r"scenes of the split 'held_out', got none; raise"):
        rpn_training.run(alone.folder, tmp_path / "rpn", RPN)
    assert not (tmp_path / "rpn").exists()
    assert not list(tmp_path.glob(".work/*/checkpoint-*"))


def test_scenes_without_a_part_to_train_on_are_refused(tmp_path: Path) -> None:
    alone = write_scenes(tmp_path / "scenes", num_scenes=2, splits=("held_out",))
    with pytest.raises(DatasetError, match="scenes of the split 'train', got none"):
        rpn_training.run(alone.folder, tmp_path / "rpn", RPN)


def test_measuring_does_not_depend_on_a_threshold_of_a_later_step(checkpoint: Artifact) -> None:
    """Half-trained networks score low; what a fixed threshold would hide is measured too."""
    metrics = checkpoint.manifest.metrics
    assert metrics["instances/recall"] > 0.6
    assert metrics["instances/best_f1"] > 0.5
