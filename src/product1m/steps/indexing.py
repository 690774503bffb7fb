"""Gallery items to block vectors to a FAISS index."""

from pathlib import Path

from product1m.artifacts.folder import open_artifact
from product1m.artifacts.lineage import require_same_rpn
from product1m.capture.crop_adaptation import stored_adaptation
from product1m.capture.network import load_capture
from product1m.config import IndexingConfig
from product1m.data.crop_vectors import ENCODER_FILES
from product1m.data.regions import FeatureSet
from product1m.retrieval.building import IndexSettings, build_index
from product1m.retrieval.index import INDEX
from product1m.steps.bracket import open_step


def run(
    gallery_features: Path, capture: Path, index: Path, config: IndexingConfig
) -> dict[str, float]:
    """Build the index of the gallery and measure it against exact search.

    Raises ArtifactError if CAPTURE learned from regions of another RPN, RetrievalError if the
    gallery is empty or too small for the factory string.
    """
    with open_step("indexing", config, index) as step:
        features = open_artifact(gallery_features, "feature_extraction", "gallery")
        checkpoint = open_artifact(capture, "capture_pretraining")
        step.read({"gallery_features": features, "capture": checkpoint})
        require_same_rpn(features, checkpoint)
        settings = IndexSettings.from_config(config)
        crop_map = stored_adaptation(checkpoint, features) if config.adapt_crops else None
        built = build_index(FeatureSet(features), load_capture(checkpoint), settings, crop_map)
        built.write(step.folder)
        for name in ENCODER_FILES:
            if name in features.manifest.files:
                step.writer.keep(features, name, name)
        num_bytes = (step.folder / INDEX).stat().st_size
        step.metrics.update(built.metrics, bytes_per_item=num_bytes / len(built.rows))
        step.details.update(built.details)
    return step.all_metrics()
