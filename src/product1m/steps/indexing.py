"""Gallery items to block vectors to a FAISS index."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, Int64

from product1m.artifacts.folder import Artifact, open_artifact, write_artifact
from product1m.artifacts.lineage import require_same_rpn
from product1m.capture.network import load_capture
from product1m.config import IndexingConfig
from product1m.data.regions import FeatureSet
from product1m.errors import RetrievalError
from product1m.retrieval.embedding import (
    BlockEncoder,
    BlockLayout,
    Standardization,
    concatenate,
)
from product1m.retrieval.index import (
    GALLERY,
    INDEX,
    ExactSearch,
    add_vectors,
    make_index,
    measure,
    write_index,
)
from product1m.retrieval.text import TextEncoder
from product1m.telemetry.progress import track
from product1m.telemetry.tracking import step_run

RECALL_DEPTH = 100
"""The recall of the index is measured at this depth, the ranking's (ours)."""


def run(
    gallery_features: Path, capture: Path, index: Path, config: IndexingConfig
) -> dict[str, float]:
    """Build the index of the gallery and measure it against exact search.

    Raises ArtifactError where CAPTURE learned from regions of another RPN, RetrievalError where the
    gallery is empty or too small for the factory string.
    """
    features = open_artifact(gallery_features, "feature_extraction", "gallery")
    checkpoint = open_artifact(capture, "capture_pretraining")
    require_same_rpn(features, checkpoint)
    inputs = {"gallery_features": features, "capture": checkpoint}
    with step_run("indexing", config) as tracker:
        with write_artifact(index, "indexing", config, inputs) as writer:
            gallery = FeatureSet(features)
            sample = _sample(len(gallery), config)
            encoder = _fit(gallery, sample, checkpoint, config)
            encoder.text.save(writer.folder)
            encoder.standardization.save(writer.folder)
            layout, filled, scores = _build(gallery, sample, encoder, config)
            write_index(filled, writer.folder / INDEX)
            rows = gallery.rows[["id", "caption", "labels", "sha256"]]
            table = pa.Table.from_pandas(rows, preserve_index=False)
            pq.write_table(table, writer.folder / GALLERY)
            num_bytes = (writer.folder / INDEX).stat().st_size
            writer.metrics.update(scores, bytes_per_item=num_bytes / len(gallery))
            writer.details.update(blocks=dict(layout.widths), streams=config.streams)
        tracker.log_metrics(writer.metrics)
    return dict(writer.metrics)


def _sample(num_items: int, config: IndexingConfig) -> Int64[np.ndarray, " S"]:
    """Row positions of the items that fit the blocks and train the index, ascending."""
    if not num_items:
        raise RetrievalError("the gallery is empty; there is nothing to index")
    size = min(num_items, config.num_training_items)
    generator = np.random.default_rng(config.seed)
    return np.sort(generator.choice(num_items, size, replace=False))


def _fit(
    gallery: FeatureSet,
    sample: Int64[np.ndarray, " S"],
    checkpoint: Artifact,
    config: IndexingConfig,
) -> BlockEncoder:
    captions = gallery.rows["caption"].iloc[sample].tolist()
    whole_photos = np.stack([gallery.regions(int(row)).features[0] for row in sample])
    return BlockEncoder(
        load_capture(checkpoint),
        Standardization.fit(whole_photos),
        TextEncoder.fit(
            captions, config.text_dim, config.text_max_ngram, config.text_max_terms, config.seed
        ),
        config.streams,
    )


def _build(
    gallery: FeatureSet,
    sample: Int64[np.ndarray, " S"],
    encoder: BlockEncoder,
    config: IndexingConfig,
) -> tuple[BlockLayout, Any, dict[str, float]]:
    """Train the index on the sample, add every item, measure what it finds."""
    blocks = list(_encode(gallery, sample, encoder, config.batch_size, "embedding a sample"))
    layout = BlockLayout({name: int(block.shape[1]) for name, block in blocks[0].items()})
    training = np.concatenate([concatenate(block) for block in blocks])
    del blocks
    started = time.monotonic()
    index = make_index(config.factory, layout.dim, len(training), config.probes, config.seed)
    index.train(training)
    generator = np.random.default_rng(config.seed)
    num_queries = min(config.num_recall_queries, len(training))
    queries = training[generator.choice(len(training), num_queries, replace=False)]
    exact = ExactSearch(queries, RECALL_DEPTH)
    train_s, add_s = time.monotonic() - started, 0.0
    for vectors in _all_vectors(gallery, training, encoder, config):
        started = time.monotonic()
        add_vectors(index, vectors)
        add_s += time.monotonic() - started
        exact.add(vectors)
    quality = measure(index, exact)
    scores = {
        f"recall@{RECALL_DEPTH}": quality.recall,
        "queries_per_s": quality.queries_per_s,
        "exact_queries_per_s": quality.exact_queries_per_s,
        "build_s": train_s + add_s,
        "num_items": float(index.ntotal),
        "dim": float(layout.dim),
    }
    return layout, index, scores


def _all_vectors(
    gallery: FeatureSet,
    training: Float32[np.ndarray, "S D"],
    encoder: BlockEncoder,
    config: IndexingConfig,
) -> Iterator[Float32[np.ndarray, "n D"]]:
    """The gallery's vectors, row by row; embedded again only if the sample lacks some."""
    if len(training) == len(gallery):
        for start in range(0, len(training), config.batch_size):
            yield training[start : start + config.batch_size]
        return
    every = np.arange(len(gallery))
    for blocks in _encode(gallery, every, encoder, config.batch_size, "embedding the gallery"):
        yield concatenate(blocks)


def _encode(
    gallery: FeatureSet,
    rows: Int64[np.ndarray, " S"],
    encoder: BlockEncoder,
    batch_size: int,
    what: str,
) -> Iterator[dict[str, Float32[np.ndarray, "n W"]]]:
    captions = gallery.rows["caption"].to_numpy()
    for start in track(range(0, len(rows), batch_size), what):
        batch = rows[start : start + batch_size]
        yield encoder.encode(captions[batch].tolist(), [gallery.regions(int(row)) for row in batch])
