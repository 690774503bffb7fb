"""Gallery items to block vectors to a FAISS index."""

from pathlib import Path

from product1m.artifacts.folder import open_artifact, write_artifact
from product1m.artifacts.lineage import require_same_rpn
from product1m.capture.network import load_capture
from product1m.config import IndexingConfig
from product1m.data.regions import FeatureSet
from product1m.retrieval.building import IndexSettings, build_index
from product1m.retrieval.index import INDEX
from product1m.telemetry.tracking import step_run


def run(
    gallery_features: Path, capture: Path, index: Path, config: IndexingConfig
) -> dict[str, float]:
    """Build the index of the gallery and measure it against exact search.

    Raises ArtifactError if CAPTURE learned from regions of another RPN, RetrievalError if the
    gallery is empty or too small for the factory string.
    """
    features = open_artifact(gallery_features, "feature_extraction", "gallery")
    checkpoint = open_artifact(capture, "capture_pretraining")
    require_same_rpn(features, checkpoint)
    inputs = {"gallery_features": features, "capture": checkpoint}
    with step_run("indexing", config) as tracker:
        with write_artifact(index, "indexing", config, inputs) as writer:
            settings = IndexSettings.from_config(config)
            built = build_index(FeatureSet(features), load_capture(checkpoint), settings)
            built.write(writer.folder)
            num_bytes = (writer.folder / INDEX).stat().st_size
            writer.metrics.update(built.metrics, bytes_per_item=num_bytes / len(built.rows))
            writer.details.update(built.details)
        tracker.log_metrics(writer.metrics)
    return dict(writer.metrics)
