"""Features of the tiny world with vectors of products that were cut out of its photos."""

import shutil
from functools import partial
from pathlib import Path

from product1m.artifacts.folder import open_artifact, write_artifact
from product1m.config import FeatureExtractionConfig
from product1m.data.crop_vectors import DETAILS, CropWriter
from product1m.data.items import ItemTable
from product1m.data.regions import FeatureSet
from product1m.detection.crop_cache import open_cropper
from product1m.detection.scene_batches import boxes_by_scene
from tests.support.worlds.tiny_world import TinyArtifacts


def write_encoded(source: TinyArtifacts, target: Path, part: str, encoder: Path) -> None:
    """Write a part's features to `{part}_features`, its crops encoded by a folder's encoder."""
    step = "background_synthesis" if part == "scenes" else "ingestion"
    inputs = {
        "images": open_artifact(source.root / part, step, part),
        "rpn": open_artifact(source.rpn, "rpn_training"),
    }
    old = open_artifact(source.root / f"{part}_features", "feature_extraction", part)
    features, items = FeatureSet(old), ItemTable(inputs["images"])
    known = boxes_by_scene(features.instances()[0], len(items)) if part == "scenes" else None
    config = FeatureExtractionConfig(crop_encoder=str(encoder), crop_adaptation=True)
    cropper = open_cropper(config, part, inputs["rpn"])
    assert cropper is not None
    folder = target / f"{part}_features"
    with write_artifact(folder, "feature_extraction", config, inputs, part) as writer:
        for name in old.manifest.files:
            shutil.copyfile(old.folder / name, writer.folder / name)
        with CropWriter(writer.folder) as crops:
            for position in range(len(items)):
                decode, boxes = partial(items.photo, position), known[position] if known else None
                crops.add(cropper.crops("", decode, features.regions(position), boxes))
        cropper.encoder.save(writer.folder)
        writer.details.update(old.manifest.details)
        writer.details[DETAILS] = cropper.encoder.details
