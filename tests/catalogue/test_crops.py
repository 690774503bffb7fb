"""A model with the block `crop` answers and refreshes catalogues without its encoder's folder."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from product1m.artifacts.folder import open_artifact
from product1m.artifacts.model_parts import CAPTURE, INDEX, RPN
from product1m.catalogue.embedding import CatalogueModel
from product1m.catalogue.new_items import from_dataset
from product1m.catalogue.store import CatalogueStore
from product1m.data.regions import FeatureSet
from product1m.registry.champion import answer_by_methods
from product1m.retrieval.crop_block import CROP
from product1m.retrieval.index import GalleryIndex
from product1m.serving.catalogue_folder import model_digest, open_catalogue
from product1m.serving.model_folder import ServingConfig, link_parts
from product1m.serving.service import SearchService
from product1m.steps import feature_extraction, indexing
from tests.support.worlds.image_encoders import write_timm
from tests.support.worlds.small_catalogue import copy_gallery, refresh
from tests.support.worlds.tiny_chain import CONFIG
from tests.support.worlds.tiny_world import TinyArtifacts

WEIGHTS = {"image": 1.0, CROP: 1.0}


@pytest.fixture(scope="module")
def model(made: TinyArtifacts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model with the block `crop`; the encoder's own folder is gone."""
    root = tmp_path_factory.mktemp("model")
    write_timm(root / "encoder")
    config = CONFIG.feature_extraction.model_copy(update={"crop_encoder": str(root / "encoder")})
    feature_extraction.run(made.gallery, made.rpn, root / "features", config)
    indexing.run(root / "features", made.capture, root / "index", CONFIG.indexing)
    shutil.rmtree(root / "encoder")
    folder = root / "model"
    folder.mkdir()
    parts = {
        RPN: open_artifact(made.rpn, "rpn_training"),
        CAPTURE: open_artifact(made.capture, "capture_pretraining"),
        INDEX: open_artifact(root / "index", "indexing"),
    }
    link_parts(folder, parts)
    write_config(folder, config, WEIGHTS)
    return folder


def write_config(folder: Path, extraction: object, weights: dict[str, float]) -> None:
    ServingConfig.model_validate(
        {
            "ingestion": CONFIG.ingestion,
            "feature_extraction": extraction,
            "evaluation": CONFIG.evaluation,
            "weights": weights,
        }
    ).write(folder)


def test_a_served_photo_is_answered_by_what_was_cut_out_of_it(
    model: Path, made: TinyArtifacts
) -> None:
    service = SearchService.load(model)
    photo = (made.root / "dataset" / "images" / "gallery-3.jpg").read_bytes()
    (answer,) = service.answer([photo], ["rose"], top_k=3)
    assert answer.result.rankings[0][0][0] == "gallery-3"
    cosines = service.searcher.encoder.crop
    assert cosines is not None
    assert service.cropper is not None


def test_a_model_that_gives_crops_no_weight_does_not_load_the_encoder(
    model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    config = ServingConfig.read(model)
    write_config(folder, config.feature_extraction, {"image": 1.0, CROP: 0.0})
    (folder / INDEX / "crop_encoder.safetensors").write_bytes(b"not read")
    assert SearchService.load(folder).cropper is None
    assert CatalogueModel.open(folder).cropper() is None


def test_a_catalogue_has_the_vectors_of_the_models_own_index(
    model: Path, made: TinyArtifacts, tmp_path: Path
) -> None:
    given = copy_gallery(made, tmp_path / "given")
    CatalogueStore(str(tmp_path / "shop")).add(from_dataset(str(given)), "Ann")
    refresh(tmp_path / "shop", model, tmp_path / "index", tmp_path / "cache")
    catalogue = open_catalogue(tmp_path / "index", model_digest(model), "the model")
    own = GalleryIndex.load(open_artifact(model / INDEX, "indexing"))
    made_again = GalleryIndex.load(catalogue)
    rows = np.arange(len(own))
    np.testing.assert_allclose(made_again.vectors(rows), own.vectors(rows), atol=2e-2)
    service = SearchService.load(model).with_catalogue(catalogue)
    assert service.cropper is not None


@pytest.mark.parametrize("weight", [1.0, 0.0])
def test_a_model_is_measured_again_with_its_own_encoder(
    weight: float, model: Path, made: TinyArtifacts, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    weights = {"image": 0.2, CROP: weight}
    write_config(folder, ServingConfig.read(model).feature_extraction, weights)
    queries = open_artifact(made.queries, "ingestion", "queries")
    gallery = open_artifact(made.gallery, "ingestion", "gallery")
    answers = answer_by_methods(folder, queries, gallery, tmp_path)
    features = open_artifact(tmp_path / "queries_features", "feature_extraction", "queries")
    assert FeatureSet(features).has_crops == bool(weight)
    assert all(len(ranking) == 8 for ranking in answers.rankings["shipped"].values())
