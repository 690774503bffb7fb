"""A promoted model and a catalogue of drawn packs, refreshed by the real step."""

import shutil
from pathlib import Path

import numpy as np

from product1m.artifacts.folder import open_artifact
from product1m.artifacts.model_parts import CAPTURE, INDEX, RPN
from product1m.config import CatalogueConfig
from product1m.data.photos import encode_jpeg
from product1m.serving.model_folder import ServingConfig, link_parts
from product1m.steps import catalogue as step
from tests.support.worlds.tiny_chain import CONFIG, NAMES, compose
from tests.support.worlds.tiny_world import TinyArtifacts


def write_model(made: TinyArtifacts, folder: Path) -> Path:
    """The folder of a model, without thumbnails."""
    folder.mkdir()
    link_parts(
        folder,
        {
            RPN: open_artifact(made.rpn, "rpn_training"),
            CAPTURE: open_artifact(made.capture, "capture_pretraining"),
            INDEX: open_artifact(made.index, "indexing"),
        },
    )
    ServingConfig(
        ingestion=CONFIG.ingestion,
        feature_extraction=CONFIG.feature_extraction,
        evaluation=CONFIG.evaluation,
        weights={"image": 1.0, "text": 1.0},
    ).write(folder)
    return folder


def write_photo(path: Path, number: int) -> Path:
    """A photo of one of the packs; another number gives another photo."""
    photo = compose((number % len(NAMES),), np.random.default_rng(number))
    path.write_bytes(encode_jpeg(photo))
    return path


def copy_gallery(made: TinyArtifacts, folder: Path) -> Path:
    """The gallery list of the tiny data set with its photos, as a data set of its own."""
    (folder / "images").mkdir(parents=True)
    shutil.copy(made.root / "dataset" / "gallery.jsonl", folder)
    for photo in (made.root / "dataset" / "images").glob("gallery-*"):
        shutil.copy(photo, folder / "images")
    return folder


def refresh(
    catalogue: Path | str, model: Path, index: Path, cache: Path, **changes: object
) -> dict[str, float]:
    """Refresh the index of a catalogue in place."""
    config = CatalogueConfig(cache=str(cache), num_canaries=4).model_copy(update=changes)
    return step.run(str(catalogue), model, index, config, index)
