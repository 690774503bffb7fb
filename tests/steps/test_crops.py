"""Products that were cut out and encoded, from the feature set to the answers."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from product1m.artifacts.folder import Artifact, open_artifact
from product1m.config import FeatureExtractionConfig
from product1m.data.crop_vectors import DETAILS, NO_CROPS
from product1m.data.items import ItemTable
from product1m.data.regions import FeatureSet
from product1m.detection.crop_cache import Cropper, CropSelection, open_cropper
from product1m.detection.crop_encoder import stored_encoder
from product1m.errors import ArtifactError, RetrievalError
from product1m.evaluation.methods import CROP, WHOLE_PHOTO
from product1m.retrieval.search import Searcher, SearchSettings
from product1m.steps import evaluation, feature_extraction
from tests.support.worlds.encoded_crops import write_encoded
from tests.support.worlds.evaluation_files import read_json
from tests.support.worlds.image_encoders import write_timm, write_vit
from tests.support.worlds.tiny_rpn import write_rpn
from tests.support.worlds.tiny_scenes import write_photos
from tests.support.worlds.tiny_world import QUICK, TinyArtifacts, index_and_evaluate

CONFIG = FeatureExtractionConfig(
    precision="float32", batch_size=2, num_workers=2, crop_encoder="backbone"
)


@pytest.fixture(scope="module")
def cropped(
    tiny_artifacts: TinyArtifacts, tmp_path_factory: pytest.TempPathFactory
) -> TinyArtifacts:
    """Gallery and queries of which every product was encoded, indexed and evaluated."""
    world = TinyArtifacts(tmp_path_factory.mktemp("cropped"))
    encoder = world.root / "encoder"
    write_timm(encoder)
    for part in ("gallery", "queries"):
        write_encoded(tiny_artifacts, world.root, part, encoder)
    shutil.rmtree(encoder)
    index_and_evaluate(world, tiny_artifacts)
    return world


def test_vectors_of_products_answer_every_box(cropped: TinyArtifacts) -> None:
    metrics: dict[str, Any] = read_json(
        open_artifact(cropped.evaluation, "evaluation"), "metrics.json"
    )
    found = {name: scores["strict"]["10"]["mAP"] for name, scores in metrics["test"].items()}
    assert found[CROP] > 0.9  # products are tiles of one color
    assert found[CROP] > found["image"]
    assert metrics["fusion"][CROP] > 0
    assert {CROP, CROP + WHOLE_PHOTO} <= found.keys()
    details = open_artifact(cropped.index, "indexing").manifest.details
    assert details["blocks"][CROP] == details[DETAILS]["dim"] == 192
    assert details[DETAILS]["license"] == "mit"


def test_an_index_holds_the_encoder_of_its_vectors(
    cropped: TinyArtifacts, tiny_artifacts: TinyArtifacts
) -> None:
    index = open_artifact(cropped.index, "indexing")
    rpn = open_artifact(tiny_artifacts.rpn, "rpn_training")
    encoder = stored_encoder(index, FeatureExtractionConfig(), rpn)  # its folder is gone
    cropper = Cropper(encoder, CropSelection("several", SearchSettings.from_config(QUICK).boxes))
    queries = FeatureSet(open_artifact(cropped.queries_features, "feature_extraction", "queries"))
    photo = ItemTable(open_artifact(tiny_artifacts.queries, "ingestion", "queries")).photo(0)
    served = cropper.with_crops(photo, replace(queries.regions(0), crops=NO_CROPS)).crops
    assert len(served) > 1
    for box, vector in zip(served.boxes_xyxy, served.vectors, strict=True):
        np.testing.assert_array_equal(queries.crops(0).at(box), vector)


def test_queries_of_another_encoder_are_refused(
    cropped: TinyArtifacts, tiny_artifacts: TinyArtifacts, tmp_path: Path
) -> None:
    other = TinyArtifacts(tmp_path)
    write_vit(tmp_path / "encoder")
    write_encoded(tiny_artifacts, other.root, "queries", tmp_path / "encoder")
    with pytest.raises(ArtifactError, match="run feature_extraction of queries and gallery again"):
        evaluation.run(
            other.queries_features,
            tiny_artifacts.capture,
            cropped.index,
            tiny_artifacts.queries,
            tiny_artifacts.gallery,
            tmp_path / "evaluation",
            QUICK,
        )


def test_a_box_that_was_not_encoded_is_answered_by_the_other_blocks(
    cropped: TinyArtifacts, tiny_artifacts: TinyArtifacts
) -> None:
    index = open_artifact(cropped.index, "indexing")
    capture = open_artifact(tiny_artifacts.capture, "capture_pretraining")
    searcher = Searcher.load(index, capture, SearchSettings.from_config(QUICK))
    queries = FeatureSet(open_artifact(cropped.queries_features, "feature_extraction"))
    regions = queries.regions(0)
    encoded = regions.instance(regions.boxes_xyxy[1], regions.features[1])
    doubtful = regions.instance(regions.boxes_xyxy[-1], regions.features[-1])
    blocks = searcher.encoder.encode(["title"] * 2, [encoded, doubtful])
    np.testing.assert_allclose(np.linalg.norm(blocks[CROP], axis=1), [1, 0], atol=1e-5)


def test_an_index_without_the_block_is_as_before(tiny_artifacts: TinyArtifacts) -> None:
    index = open_artifact(tiny_artifacts.index, "indexing")
    assert CROP not in index.manifest.details["blocks"]
    assert DETAILS not in index.manifest.details
    assert not [name for name in index.manifest.files if CROP in name]
    features = open_artifact(tiny_artifacts.queries_features, "feature_extraction")
    assert not FeatureSet(features).has_crops


def test_a_missing_block_is_named_with_its_setting(
    tiny_artifacts: TinyArtifacts, tmp_path: Path
) -> None:
    config = QUICK.model_copy(update={"fused_blocks": (CROP,)})
    with pytest.raises(RetrievalError, match=r"block crop feature_extraction\.crop_encoder"):
        evaluation.run(
            tiny_artifacts.queries_features,
            tiny_artifacts.capture,
            tiny_artifacts.index,
            tiny_artifacts.queries,
            tiny_artifacts.gallery,
            tmp_path / "evaluation",
            config,
        )


@pytest.fixture(scope="module")
def rpn(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_rpn(tmp_path_factory.mktemp("rpn") / "rpn")


def test_extraction_writes_what_a_served_photo_gets(rpn: Artifact, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "queries", [(96, 96), (160, 80), (120, 90)], "queries")
    metrics = feature_extraction.run(photos.folder, rpn.folder, tmp_path / "features", CONFIG)
    assert metrics["photos_encoded"] == 3
    stored = open_artifact(tmp_path / "features", "feature_extraction", "queries")
    assert stored.manifest.details[DETAILS]["encoder"] == "backbone"
    features, items = FeatureSet(stored), ItemTable(photos)
    cropper = open_cropper(CONFIG, "queries", rpn)
    assert cropper is not None
    for position in range(len(items)):
        regions = features.regions(position)
        assert regions.crops.boxes_xyxy[0].tolist() == regions.boxes_xyxy[0].tolist()
        served = cropper.with_crops(items.photo(position), regions).crops
        for box, vector in zip(served.boxes_xyxy, served.vectors, strict=True):
            found = regions.crops.at(box)
            assert found is not None
            np.testing.assert_array_equal(found, vector)


@pytest.mark.parametrize(
    ("part", "adapts", "encoded"),
    [
        ("train", False, False),
        ("scenes", False, False),
        ("gallery", False, True),
        ("train", True, True),
        ("scenes", True, True),
    ],
)
def test_photos_that_are_only_learned_from_are_encoded_for_an_adaptation(
    part: str, adapts: bool, encoded: bool, rpn: Artifact
) -> None:
    config = CONFIG.model_copy(update={"crop_adaptation": adapts})
    assert (open_cropper(config, part, rpn) is not None) == encoded
