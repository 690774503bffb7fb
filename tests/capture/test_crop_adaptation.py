"""The linear map of crop vectors: kept where it finds more sources of held-out products."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from product1m.artifacts.folder import open_artifact, write_artifact
from product1m.capture.crop_adaptation import ADAPTED, FILE, Adaptation, Pairs, adapt
from product1m.data.crop_vectors import DETAILS
from product1m.data.regions import FeatureSet
from product1m.errors import ArtifactError
from product1m.retrieval.crop_block import CropBlock
from product1m.steps import capture_pretraining, indexing
from tests.support.worlds.encoded_crops import write_encoded
from tests.support.worlds.image_encoders import write_timm, write_vit
from tests.support.worlds.tiny_world import CAPTURE, INDEXING, TinyArtifacts

DIM, NUM_SOURCES = 24, 120


def pairs(disturbance: np.ndarray, seed: int) -> Pairs:
    """Two instances of each source: its vector, changed in some of its dimensions."""
    generator = np.random.default_rng(seed)
    sources = unit(generator.standard_normal((NUM_SOURCES, DIM)))
    source_of = np.repeat(np.arange(NUM_SOURCES), 2)
    changes = generator.standard_normal((len(source_of), DIM)) * disturbance
    return Pairs(unit(sources[source_of] + changes), sources, source_of)


def unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def test_dimensions_that_scenes_change_count_less() -> None:
    disturbed = np.arange(DIM) < 8
    train, held_out = (pairs(disturbed * 0.6, seed) for seed in (0, 1))
    made = adapt(train, held_out, "encoder", 0)
    assert made.matrix is not None
    assert made.recall_after > made.recall_before + 0.03
    lengths = np.linalg.norm(made.matrix, axis=0)
    assert lengths[disturbed].max() < lengths[~disturbed].min()
    assert made.recall_after == held_out.recall(made.matrix)
    np.testing.assert_array_equal(adapt(train, held_out, "encoder", 0).matrix, made.matrix)


def test_a_map_that_finds_no_more_is_not_kept(tmp_path: Path) -> None:
    train, held_out = (pairs(np.full(DIM, 0.01), seed) for seed in (0, 1))
    made = adapt(train, held_out, "encoder", 0)
    assert (made.matrix, made.recall_before) == (None, 1.0)
    made.save(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def world(tiny_artifacts: TinyArtifacts, tmp_path_factory: pytest.TempPathFactory) -> TinyArtifacts:
    """A CAPTURE that was trained where crops of scenes were encoded."""
    world = TinyArtifacts(tmp_path_factory.mktemp("adapted"))
    write_timm(world.root / "encoder")
    for part in ("train", "scenes", "gallery"):
        write_encoded(tiny_artifacts, world.root, part, world.root / "encoder")
    config = CAPTURE.model_copy(update={"num_epochs": 1})
    capture_pretraining.run(world.train_features, world.scenes_features, world.capture, config)
    return world


def test_pretraining_without_held_out_scenes_keeps_no_map(world: TinyArtifacts) -> None:
    capture = open_artifact(world.capture, "capture_pretraining")
    metrics = capture.manifest.metrics
    assert metrics["crop_adaptation/kept"] == metrics["crop_adaptation/recall_before"] == 0
    assert FILE not in capture.manifest.files
    gallery = open_artifact(world.gallery_features, "feature_extraction", "gallery")
    assert capture.manifest.details[ADAPTED] == gallery.manifest.details[DETAILS]["digest"]


@pytest.fixture(scope="module")
def adapted(world: TinyArtifacts) -> Path:
    """The same CAPTURE with a map that keeps the first ten dimensions only."""
    old, folder = open_artifact(world.capture, "capture_pretraining"), world.root / "adapted"
    with write_artifact(folder, "capture_pretraining", CAPTURE) as writer:
        shutil.copytree(old.folder, writer.folder, dirs_exist_ok=True)
        matrix = np.diag(np.arange(192) < 10).astype(np.float32)
        Adaptation(matrix, old.manifest.details[ADAPTED], 0.5, 0.6).save(writer.folder)
        writer.details.update(old.manifest.details)
        writer.manifest.lineage |= old.manifest.lineage
    return folder


@pytest.mark.parametrize(("uses", "num_dimensions"), [(True, 10), (False, 192)])
def test_an_index_uses_a_map_that_was_kept(
    uses: bool, num_dimensions: int, world: TinyArtifacts, adapted: Path, tmp_path: Path
) -> None:
    config = INDEXING.model_copy(update={"adapt_crops": uses})
    indexing.run(world.gallery_features, adapted, tmp_path / "index", config)
    block = CropBlock.load(open_artifact(tmp_path / "index", "indexing"))
    assert block is not None
    features = FeatureSet(open_artifact(world.gallery_features, "feature_extraction", "gallery"))
    rows = block.encode([features.regions(row) for row in range(5)], items=True)
    assert (rows != 0).any(axis=0).sum() == num_dimensions
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_a_map_of_another_encoder_is_refused(
    tiny_artifacts: TinyArtifacts, adapted: Path, tmp_path: Path
) -> None:
    write_vit(tmp_path / "encoder")
    write_encoded(tiny_artifacts, tmp_path, "gallery", tmp_path / "encoder")
    with pytest.raises(ArtifactError, match="maps vectors of the encoder"):
        indexing.run(tmp_path / "gallery_features", adapted, tmp_path / "index", INDEXING)
