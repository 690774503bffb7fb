"""Region features of every photo of an artifact: train, gallery, queries or scenes (paper)."""

from pathlib import Path

from product1m.artifacts.folder import Artifact, open_artifact, part_of
from product1m.config import FeatureExtractionConfig
from product1m.data.regions import INSTANCES
from product1m.detection.crop_cache import open_cropper
from product1m.detection.extraction import RegionSettings
from product1m.detection.feature_sets import write_features
from product1m.detection.ocr_cache import open_reader
from product1m.detection.points import PointFinder
from product1m.detection.untrained_boxes import grabcut_of_scenes
from product1m.steps.bracket import open_step
from product1m.training import distributed
from product1m.training.memory import keep_freed_memory

STEP = "feature_extraction"


def run(
    images: Path,
    rpn: Path,
    features: Path,
    config: FeatureExtractionConfig,
    storage_root: str = "",
) -> dict[str, float]:
    """Extract the regions of `images`, an artifact of ingestion or background synthesis.

    For gallery and queries it also finds points and reads what is printed, if the configuration
    says so. Raises DatasetError with the item's id for a photo that cannot be decoded.
    """
    with open_step(STEP, config, features, part_of(images), storage_root) as step:
        photos, checkpoint = _open_photos(images), open_artifact(rpn, "rpn_training")
        step.read({"images": photos, "rpn": checkpoint})
        keep_freed_memory(distributed.device())
        cropper = open_cropper(config, part_of(images), checkpoint)
        write_features(
            photos,
            checkpoint,
            step.writer,
            RegionSettings.from_config(config, grabcut_of_scenes(checkpoint)),
            num_workers=config.num_workers,
            shard_mib=config.shard_mib,
            reader=open_reader(config, part_of(images), checkpoint),
            finder=PointFinder.from_config(config, part_of(images)),
            cropper=cropper,
        )
        if cropper is not None and part_of(images) == "gallery":
            for path in cropper.encoder.save(step.folder):  # for the index, so for what is served
                step.writer.store(path)
    return step.all_metrics()


def _open_photos(images: Path) -> Artifact:
    is_scenes = (images / INSTANCES).is_file()
    return open_artifact(images, "background_synthesis" if is_scenes else "ingestion")
