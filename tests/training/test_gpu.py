"""A GPU computes what a CPU does, the same again with the same seed, and splits what is too large.

Skipped where there is no GPU.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from product1m.artifacts.folder import open_artifact
from product1m.capture.batches import PretrainingBatch, PretrainingBatches, feature_moments
from product1m.capture.network import Capture, build_capture, heads_for, network_sizes
from product1m.capture.pretext import pretext_losses
from product1m.capture.tokens import train_tokenizer
from product1m.config import CapturePretrainingConfig, FeatureExtractionConfig, RpnTrainingConfig
from product1m.data.regions import FeatureSet, Regions
from product1m.detection.extraction import RegionSettings, extract_regions
from product1m.detection.proposals import NetworkSettings, ProposalNetwork, frozen_copy
from product1m.detection.scene_batches import SceneBatches, SceneBatchSettings, Scenes, losses
from product1m.steps.capture_pretraining import batch_settings, pretext_tasks
from product1m.training import distributed
from product1m.training.exact import deterministic_kernels
from product1m.training.loop import TrainingPlan, train
from tests.support.worlds import tiny_chain
from tests.support.worlds.feature_artifacts import make_features, make_scenes, make_train
from tests.support.worlds.tiny_scenes import RPN, blocks, write_scenes
from tests.support.worlds.tiny_training import silent

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

MIDDLE = CapturePretrainingConfig(
    text_model="scratch",
    vocabulary_size=200,
    hidden_dim=256,
    text_layers=2,
    visual_layers=2,
    cross_layers=2,
    joint_layers=2,
    text_heads=4,
    visual_heads=4,
    cross_dim=256,
    projection_dim=128,
    batch_size=24,
    scene_batch_size=16,
    image_text_matching_weight=1.0,
    dropout=0.0,
    attention_dropout=0.0,
    precision="float32",
)


@contextmanager
def without_gpu() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        yield


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureSet, FeatureSet]:
    return opened(make_features(tmp_path_factory.mktemp("features")))


def opened(folders: tuple[Path, Path]) -> tuple[FeatureSet, FeatureSet]:
    items, scenes = (
        FeatureSet(open_artifact(folder, "feature_extraction", part))
        for folder, part in zip(folders, ("train", "scenes"), strict=True)
    )
    return items, scenes


def batches_of(
    features: tuple[FeatureSet, FeatureSet], config: CapturePretrainingConfig
) -> PretrainingBatches:
    words = train_tokenizer(features[0].rows["caption"].tolist(), 200)
    return PretrainingBatches(*features, words, batch_settings(config))


def capture_of(
    features: tuple[FeatureSet, FeatureSet], config: CapturePretrainingConfig
) -> Capture:
    torch.manual_seed(0)
    words = train_tokenizer(features[0].rows["caption"].tolist(), 200)
    capture = build_capture(
        network_sizes(config), heads_for(config), words.vocabulary_size, features[0].feature_dim
    )
    mean, deviation = feature_moments(features[0])
    capture.standardization.fit(torch.from_numpy(mean), torch.from_numpy(deviation))
    return capture


def pretrained(
    features: tuple[FeatureSet, FeatureSet],
    config: CapturePretrainingConfig,
    work: Path,
    num_steps: int = 12,
    max_parts: int = 1,
) -> tuple[Capture, list[dict[str, float]]]:
    """Some steps of pretraining on this process's device."""
    capture, tasks = capture_of(features, config), pretext_tasks(config)

    def computed(
        network: Capture, batch: PretrainingBatch, num_parts: int = 1
    ) -> dict[str, Tensor]:
        return pretext_losses(network, batch, tasks, num_parts)

    plan = TrainingPlan(
        num_steps, 1e-3, precision=config.precision, report_interval_steps=1, seed=5
    )
    with deterministic_kernels(distributed.device()):
        batches = batches_of(features, config)
        curve = train(
            capture, computed, batches, plan, work=work, report=silent, max_parts=max_parts
        )
    return capture, curve


def weights(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.cpu() for name, tensor in module.state_dict().items()}


def farthest(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The largest distance of two states, tensor by tensor, relative to the tensor's length."""
    return max(
        float((mine[name] - other).norm() / other.norm().clamp(min=1e-3))
        for name, other in theirs.items()
        if other.is_floating_point()
    )


def test_pretraining_steps_are_those_of_the_cpu(
    features: tuple[FeatureSet, FeatureSet], tmp_path: Path
) -> None:
    # Which wrong photo is drawn depends on the device's generator.
    config = MIDDLE.model_copy(update={"image_text_matching_weight": 0.0})
    on_gpu, curve = pretrained(features, config, tmp_path / "gpu", num_steps=5)
    with without_gpu():
        on_cpu, expected = pretrained(features, config, tmp_path / "cpu", num_steps=5)
    for mine, theirs in zip(curve, expected, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3)
    assert farthest(weights(on_gpu), weights(on_cpu)) < 1e-2


def test_embeddings_are_those_of_the_cpu(features: tuple[FeatureSet, FeatureSet]) -> None:
    capture, batch = capture_of(features, MIDDLE).eval(), batches_of(features, MIDDLE)(0)
    with torch.no_grad():
        states = capture.streams(batch.pairs)
        expected = [*capture.fuse(states).__dict__.values(), states.text_embedding]
        distributed.device()  # no TF32
        capture.cuda()
        on_gpu = capture.streams(batch.pairs.to(torch.device("cuda")))
        found = [*capture.fuse(on_gpu).__dict__.values(), on_gpu.text_embedding]
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.cpu(), theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_same_seed_gives_the_same_weights(
    features: tuple[FeatureSet, FeatureSet], precision: str, tmp_path: Path
) -> None:
    config = MIDDLE.model_copy(
        update={"precision": precision, "dropout": 0.1, "attention_dropout": 0.1}
    )
    first, _ = pretrained(features, config, tmp_path / "first")
    again, _ = pretrained(features, config, tmp_path / "again")
    for mine, theirs in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def network_of(config: RpnTrainingConfig) -> ProposalNetwork:
    torch.manual_seed(0)
    network = ProposalNetwork(NetworkSettings.from_config(config), config.weights)
    torch.nn.init.normal_(network.rpn.head.cls_logits.weight, std=1.0)
    return network


def test_regions_and_their_vectors_are_those_of_the_cpu() -> None:
    settings = RegionSettings.from_config(
        FeatureExtractionConfig(precision="float32", batch_size=4, canonical_side_px=48), None
    )
    generator = np.random.default_rng(0)
    photos = [blocks(generator, *size) for size in ((96, 96), (200, 100), (96, 96), (100, 150))]
    network = network_of(RPN)
    on_gpu = extract_regions(frozen_copy(network), photos, settings)
    with without_gpu():
        on_cpu = extract_regions(frozen_copy(network), photos, settings)
    for (mine, _), (theirs, _) in zip(on_gpu, on_cpu, strict=True):
        assert_same_regions(mine, theirs)


def assert_same_regions(mine: Regions, theirs: Regions) -> None:
    """Equal regions; nearly equal scores may have changed places."""
    near = np.abs(mine.boxes_xyxy[:, None] - theirs.boxes_xyxy[None]).max(2) < 0.05
    assert near.any(1).mean() > 0.95
    rows, columns = near.any(1).nonzero()[0], near.argmax(1)
    np.testing.assert_allclose(mine.scores[rows], theirs.scores[columns[rows]], atol=1e-3)
    own, other = (vectors.astype(np.float32) for vectors in (mine.features, theirs.features))
    distances = np.linalg.norm(own[rows] - other[columns[rows]], axis=1)
    assert (distances / np.linalg.norm(own[rows], axis=1)).max() < 5e-3


@pytest.mark.parametrize("changes", [{}, {"trainable_stages": 1, "precision": "bf16"}])
def test_rpn_training_gives_the_same_weights_again(
    changes: dict[str, object], tmp_path: Path
) -> None:
    config = RPN.model_copy(update=changes)
    scenes = Scenes(write_scenes(tmp_path / "scenes"))
    batches = SceneBatches(scenes, scenes.split("train"), SceneBatchSettings.from_config(config))

    def trained(name: str) -> ProposalNetwork:
        network = network_of(config)
        plan = TrainingPlan(6, 1e-3, precision=config.precision, seed=2)
        with deterministic_kernels(distributed.device()):
            train(network, losses, batches, plan, work=tmp_path / name, report=silent)
        return network

    first, again = trained("first"), trained("again")
    for mine, theirs in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_batch_that_does_not_fit_is_split_and_gives_the_same_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    many = make_train(tmp_path / "train", 512), make_scenes(tmp_path / "scenes", 300, 512)
    features = opened(many)
    config = MIDDLE.model_copy(update={"batch_size": 512, "scene_batch_size": 256})
    needed = []
    for name, max_parts in (("whole", 1), ("limited", 32)):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        network, curve = pretrained(features, config, tmp_path / name, 4, max_parts)
        if name == "whole":
            whole, expected = weights(network), curve
            needed.append(torch.cuda.max_memory_reserved())
            del network
            torch.cuda.empty_cache()
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(0.6 * needed[0] / total)
    torch.cuda.set_per_process_memory_fraction(1.0)
    assert "memory ran out; the batch is split into 2 parts" in caplog.text
    for mine, theirs in zip(curve, expected, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3)
    assert farthest(weights(network), whole) < 1e-2


def test_the_whole_chain_gives_the_same_artifacts_again(tmp_path: Path) -> None:
    digests: Sequence[list[str]] = [
        [
            open_artifact(folder, step, part).digest
            for folder, step, part in (
                (made.rpn, "rpn_training", ""),
                (made.train_features, "feature_extraction", "train"),
                (made.capture, "capture_pretraining", ""),
            )
        ]
        for made in (tiny_chain.run_chain(tmp_path / name) for name in ("first", "again"))
    ]
    assert digests[0] == digests[1]
