"""Build the gallery's index: fit the blocks, train FAISS, add every item, measure recall."""

import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float16, Float32, Int64

from product1m.capture.network import LoadedCapture
from product1m.config import IndexingConfig
from product1m.data.crop_vectors import DETAILS
from product1m.data.points import POINTS
from product1m.data.regions import FeatureSet
from product1m.errors import RetrievalError
from product1m.retrieval.crop_block import CropBlock
from product1m.retrieval.embedding import (
    FIRST_AUTHOR,
    FUSABLE,
    BlockEncoder,
    BlockLayout,
    ImageStandardization,
    Streams,
    concatenate,
)
from product1m.retrieval.first_author import MAX_ITEMS, save_products
from product1m.retrieval.index import (
    GALLERY,
    INDEX,
    ExactSearch,
    add_vectors,
    make_index,
    measure,
    probes_of,
    reach_recall,
    write_index,
)
from product1m.retrieval.printed_text import PrintedTextEncoder
from product1m.retrieval.reduction import Reductions
from product1m.retrieval.text import TextEncoder
from product1m.telemetry.progress import track

RECALL_DEPTH = 100
"""The recall of the index is measured at this depth, that of a ranking (ours)."""
RECALL = f"recall@{RECALL_DEPTH}"
"""Name of the index's recall, compared with exact search, among its metrics."""


@dataclass(frozen=True)
class TextSettings:
    """Size of the block of titles, or of printed text."""

    dim: int
    max_ngram: int
    max_terms: int


@dataclass(frozen=True)
class IndexSettings:
    """How an index is built; the section `indexing` of the configuration explains each value."""

    streams: Streams
    text: TextSettings
    ocr: TextSettings
    max_block_dim: int
    num_training_items: int
    batch_size: int
    factory: str
    probes: int
    min_recall: float
    num_recall_queries: int
    seed: int

    @classmethod
    def from_config(cls, config: IndexingConfig) -> "IndexSettings":
        """The settings in a configuration section."""
        return cls(
            streams=config.streams,
            text=TextSettings(config.text_dim, config.text_max_ngram, config.text_max_terms),
            ocr=TextSettings(config.ocr_dim, config.ocr_max_ngram, config.text_max_terms),
            max_block_dim=config.max_block_dim,
            num_training_items=config.num_training_items,
            batch_size=config.batch_size,
            factory=config.factory,
            probes=config.probes,
            min_recall=config.min_recall,
            num_recall_queries=config.num_recall_queries,
            seed=config.seed,
        )


@dataclass(frozen=True)
class BuiltIndex:
    """A filled index with everything that a search needs."""

    encoder: BlockEncoder
    layout: BlockLayout
    index: Any
    """The FAISS index; its row i is row i of `rows`."""
    rows: pd.DataFrame
    """The gallery items: columns id, caption, labels, sha256."""
    metrics: dict[str, float]
    """Recall and speed compared with exact search, and sizes."""
    products: list[Float16[np.ndarray, "n E"]]
    """Products of the stream tokens, for the first author's ranking; empty for a large gallery."""
    points: Path | None = None
    """File with the points of the items' photos, if they were computed."""

    @property
    def details(self) -> dict[str, Any]:
        """Facts that readers of the files need: the blocks' widths, how streams are combined."""
        crop = self.encoder.crop
        return {
            "blocks": dict(self.layout.widths),
            "streams": self.encoder.streams,
            **({DETAILS: crop.details} if crop is not None else {}),
        }

    def write(self, folder: Path) -> None:
        """Write the files of an index artifact."""
        self.encoder.text.save(folder)
        if self.encoder.printed is not None:
            self.encoder.printed.save(folder)
        if self.encoder.crop is not None:
            self.encoder.crop.save(folder)
        self.encoder.standardization.save(folder)
        self.encoder.reductions.save(folder)
        if self.products:
            save_products(folder, self.products)
        write_index(self.index, folder / INDEX)
        if self.points is not None:
            shutil.copyfile(self.points, folder / POINTS)
        table = pa.Table.from_pandas(self.rows, preserve_index=False)
        pq.write_table(table, folder / GALLERY)


def build_index(
    gallery: FeatureSet,
    capture: LoadedCapture,
    settings: IndexSettings,
    crop_map: Float32[np.ndarray, "D D"] | None = None,
) -> BuiltIndex:
    """Fit the blocks and train the index on a sample of the gallery, then add every item.

    `crop_map` is a linear map of crop vectors, see `capture/crop_adaptation.py`. Raises
    RetrievalError if the gallery is empty or too small for the factory string.
    """
    sample = _sample(len(gallery), settings)
    encoder = _fit(gallery, sample, capture, settings)
    encoder.crop = _fit_crop(gallery, sample, crop_map)
    batches = _encode(gallery, sample, encoder, settings.batch_size, "embedding a sample")
    blocks = _stacked(list(batches))
    stored = {name: blocks[name] for name in FUSABLE if name in blocks}
    encoder.reductions = Reductions.fit(stored, settings.max_block_dim)
    blocks = encoder.reductions.apply(blocks)
    widths = {name: blocks[name].shape[1] for name in stored}
    index, metrics, products = _fill(gallery, blocks, encoder, settings)
    rows = gallery.rows[["id", "caption", "labels", "sha256"]]
    points = gallery.artifact.file(POINTS) if gallery.has_points else None
    return BuiltIndex(encoder, BlockLayout(widths), index, rows, metrics, products, points)


def _sample(num_items: int, settings: IndexSettings) -> Int64[np.ndarray, " S"]:
    """Row positions of the items that fit the blocks and train the index, ascending."""
    if not num_items:
        raise RetrievalError("the gallery is empty; there is nothing to index")
    size = min(num_items, settings.num_training_items)
    generator = np.random.default_rng(settings.seed)
    return np.sort(generator.choice(num_items, size, replace=False))


def _fit(
    gallery: FeatureSet,
    sample: Int64[np.ndarray, " S"],
    capture: LoadedCapture,
    settings: IndexSettings,
) -> BlockEncoder:
    captions = gallery.rows["caption"].iloc[sample].tolist()
    whole_photos = np.stack([gallery.regions(int(row)).features[0] for row in sample])
    text = settings.text
    return BlockEncoder(
        capture,
        ImageStandardization.fit(whole_photos),
        TextEncoder.fit(captions, text.dim, text.max_ngram, text.max_terms, settings.seed),
        settings.streams,
        _fit_printed(gallery, sample, captions, settings),
    )


def _fit_crop(
    gallery: FeatureSet,
    sample: Int64[np.ndarray, " S"],
    crop_map: Float32[np.ndarray, "D D"] | None,
) -> CropBlock | None:
    """Fit on the sample's vectors; None if nothing was cut out of the gallery's photos."""
    if not gallery.has_crops:
        return None
    vectors = np.concatenate([gallery.crops(int(row)).vectors[:1] for row in sample])
    return CropBlock.fit(vectors, gallery.artifact.manifest.details[DETAILS], crop_map)


def _fit_printed(
    gallery: FeatureSet,
    sample: Int64[np.ndarray, " S"],
    captions: list[str],
    settings: IndexSettings,
) -> PrintedTextEncoder | None:
    """Fit on the sample's lines and titles; None if the gallery's printed text was not read."""
    if not gallery.has_lines:
        return None
    lines = (gallery.lines(int(row)).texts for row in sample)
    packs = [[*texts, title] for texts, title in zip(lines, captions, strict=True)]
    ocr = settings.ocr
    return PrintedTextEncoder.fit(packs, ocr.dim, ocr.max_ngram, ocr.max_terms, settings.seed)


def _fill(
    gallery: FeatureSet,
    sample: Mapping[str, Float32[np.ndarray, "S W"]],
    encoder: BlockEncoder,
    settings: IndexSettings,
) -> tuple[Any, dict[str, float], list[Float16[np.ndarray, "n E"]]]:
    """Train an index on the sample's vectors, add every item, and measure recall and speed.

    The third value contains the products of the stream tokens; it is empty for a large gallery.
    """
    started = time.monotonic()
    training = concatenate(sample, FUSABLE)
    dim = training.shape[1]
    index = make_index(settings.factory, dim, len(training), settings.probes, settings.seed)
    index.train(training)
    exact = ExactSearch(_recall_queries(training, settings), RECALL_DEPTH)
    train_s, add_s = time.monotonic() - started, 0.0
    del training
    products = []
    for blocks in _all_blocks(gallery, sample, encoder, settings.batch_size):
        vectors = concatenate(blocks, FUSABLE)
        started = time.monotonic()
        add_vectors(index, vectors)
        add_s += time.monotonic() - started
        exact.add(vectors)
        if len(gallery) <= MAX_ITEMS:
            products.append(blocks[FIRST_AUTHOR].astype(np.float16))
    reach_recall(index, exact.queries, exact.positions(), settings.min_recall)
    quality = measure(index, exact)
    metrics = {
        RECALL: quality.recall,
        "queries_per_s": quality.queries_per_s,
        "exact_queries_per_s": quality.exact_queries_per_s,
        "probes": float(probes_of(index)),
        "build_s": train_s + add_s,
        "num_items": float(index.ntotal),
        "dim": float(dim),
    }
    return index, metrics, products


def _recall_queries(
    training: Float32[np.ndarray, "S D"], settings: IndexSettings
) -> Float32[np.ndarray, "Q D"]:
    generator = np.random.default_rng(settings.seed)
    num_queries = min(settings.num_recall_queries, len(training))
    return training[generator.choice(len(training), num_queries, replace=False)]


def _all_blocks(
    gallery: FeatureSet,
    sample: Mapping[str, Float32[np.ndarray, "S W"]],
    encoder: BlockEncoder,
    batch_size: int,
) -> Iterator[dict[str, Float32[np.ndarray, "n W"]]]:
    """The gallery's blocks, row by row; embedded again only if the sample lacks some."""
    every = np.arange(len(gallery))
    if len(next(iter(sample.values()))) < len(gallery):
        yield from _encode(gallery, every, encoder, batch_size, "embedding the gallery")
        return
    for start in range(0, len(gallery), batch_size):
        yield {name: block[start : start + batch_size] for name, block in sample.items()}


def _stacked(
    batches: list[dict[str, Float32[np.ndarray, "n W"]]],
) -> dict[str, Float32[np.ndarray, "S W"]]:
    """Batches of blocks as one; each block is removed from the batches when it is done."""
    return {name: np.concatenate([batch.pop(name) for batch in batches]) for name in [*batches[0]]}


def _encode(
    gallery: FeatureSet,
    rows: Int64[np.ndarray, " S"],
    encoder: BlockEncoder,
    batch_size: int,
    what: str,
) -> Iterator[dict[str, Float32[np.ndarray, "n W"]]]:
    captions = gallery.rows["caption"]
    for start in track(range(0, len(rows), batch_size), what):
        batch = rows[start : start + batch_size]
        views = [gallery.regions(int(row)) for row in batch]
        yield encoder.encode(captions.iloc[batch].tolist(), views, items=True)
