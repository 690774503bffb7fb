"""Measure recall, speed and size of the gallery index on vectors like those of a run.

    python benchmarks/search.py INDEX CAPTURE QUERIES EVALUATION                  # 40,000 items
    python benchmarks/search.py INDEX CAPTURE QUERIES EVALUATION --items 1200000 \
        --factory "RR1024,IVF4096,PQ256x4fs,Refine(SQ8)"

The target (1.2 million items, 2 cores): recall@100 of at least 0.99 at 1,000 queries a second, in
at most 1.5 GB. The arguments are artifacts of one run: of indexing, pretraining, the queries'
features, and evaluation. `search_vectors` says how the vectors become more; a product has 87 photos
on average, as in the paper's gallery (40,033 of 458 products). Cells are visited until the recall
is reached: first with boxes and weights as shipped, then with the gallery's own vectors unweighted,
as a build measures. Seconds are of processor time, so other work on the machine counts little.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from search_vectors import CHUNK, Catalogue, RunVectors, likeness

from product1m.artifacts.folder import open_artifact
from product1m.config import EvaluationConfig
from product1m.data.regions import FeatureSet
from product1m.evaluation.artifact_files import shipped_weights
from product1m.evaluation.box_products import box_products
from product1m.evaluation.metrics import GroundTruth
from product1m.evaluation.variants import embed_queries, true_boxes
from product1m.retrieval.index import (
    INDEX,
    ExactSearch,
    add_vectors,
    make_index,
    probes_of,
    reach_recall,
    read_index,
    write_index,
)
from product1m.retrieval.search import Searcher, SearchSettings
from product1m.telemetry.progress import track
from product1m.telemetry.usage import peak_memory_mib

DEPTH = 100
PHOTOS_PER_PRODUCT = 87


def main() -> None:
    options = parse_arguments()
    run = read_run(options).stretched(options.block_dim)
    catalogue = Catalogue(run, max(1, options.items // PHOTOS_PER_PRODUCT))
    print(f"run:      {likeness(run.gallery)}")
    like_run = Catalogue(run, len(set(run.labels)))
    print(f"invented: {likeness(like_run.items(len(run.gallery), seed=0))}")
    print(f"{options.items} items of {catalogue.dim} dimensions", flush=True)
    training = catalogue.items(min(options.items, options.training_items), seed=0)
    asked = {
        "boxes as shipped": catalogue.boxes(options.queries, seed=1),
        "gallery, unweighted": training[: options.queries].copy(),
    }
    measured = [Measured(factory, training, options.probes) for factory in options.factory]
    del training
    exact = {name: ExactSearch(queries, DEPTH) for name, queries in asked.items()}
    for vectors in track(catalogue.chunks(options.items), "adding", options.items // CHUNK):
        for index in measured:
            index.add(vectors)
        for search in exact.values():
            search.add(vectors)
    while measured:
        measured.pop(0).report(exact, options.recall)
    print(f"peak memory {peak_memory_mib() / 1024:.1f} GiB")


class Measured:
    """An index that is built and asked, with the seconds of processor time that this takes."""

    def __init__(self, factory: str, training: Float32[np.ndarray, "n D"], probes: int) -> None:
        self.factory = factory
        self.index = make_index(factory, training.shape[1], len(training), probes, seed=0)
        started = time.process_time()
        self.index.train(training)
        self.train_s, self.add_s = time.process_time() - started, 0.0

    def add(self, vectors: Float32[np.ndarray, "n D"]) -> None:
        """Add some items."""
        started = time.process_time()
        add_vectors(self.index, vectors)
        self.add_s += time.process_time() - started

    def report(self, exact: dict[str, ExactSearch], least: float) -> None:
        """Print size and times, then recall and speed of each kind of query."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / INDEX
            write_index(self.index, path)
            num_items, num_bytes = self.index.ntotal, path.stat().st_size
            self.index = None  # has room for more items than it holds
            before = resident_bytes()
            self.index = read_index(path)
        held = resident_bytes() - before
        print(
            f"\n{self.factory}\n"
            f"{num_bytes / num_items:.0f} B an item; file {num_bytes / 1e9:.3f} GB, read it takes "
            f"{held / 1e9:.3f} GB; training {self.train_s:.0f} s, adding {self.add_s:.0f} s"
        )
        for name, search in exact.items():
            print(f"{name:20} {reached(self.index, search, least)}", flush=True)


def resident_bytes() -> int:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def reached(index: Any, exact: ExactSearch, least: float) -> str:
    """Recall, probes, and queries in a second of processor time."""
    truth = exact.positions()
    recall = reach_recall(index, exact.queries, truth, least)
    started = time.process_time()
    index.search(exact.queries, DEPTH)
    rate = len(truth) / (time.process_time() - started)
    return (
        f"recall@{DEPTH} {recall:.4f} with {probes_of(index)} probes, {rate:.0f} queries/s a core"
    )


def read_run(options: argparse.Namespace) -> RunVectors:
    """Embed the boxes of a run's queries, and read its gallery's vectors."""
    index = open_artifact(options.index, "indexing")
    evaluation = open_artifact(options.evaluation, "evaluation")
    queries = FeatureSet(open_artifact(options.query_features, "feature_extraction", "queries"))
    config = EvaluationConfig.model_validate(evaluation.manifest.config)
    searcher = Searcher.load(
        index,
        open_artifact(options.capture, "capture_pretraining"),
        SearchSettings.from_config(config, queries.artifact),
    )
    boxes = true_boxes(queries)
    detected = embed_queries(searcher, queries, boxes).detected
    gallery = searcher.gallery
    shown = box_products(detected, boxes, GroundTruth.from_rows(queries.rows, gallery.rows))
    return RunVectors(
        dict(searcher.layout.widths),
        gallery.vectors(np.arange(len(gallery))),
        [labels[0] for labels in gallery.rows["labels"]],
        detected.box_vectors[:, : searcher.layout.dim],
        [names[0] if len(names) == 1 else "" for query in shown for names in query],
        shipped_weights(evaluation),
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Recall, speed and size of the gallery index.")
    parser.add_argument("index", type=Path, help="artifact of indexing")
    parser.add_argument("capture", type=Path, help="artifact of capture_pretraining")
    parser.add_argument("query_features", type=Path, help="artifact of the queries' features")
    parser.add_argument("evaluation", type=Path, help="artifact of evaluation")
    parser.add_argument("--items", type=int, default=40_000)
    parser.add_argument("--block-dim", type=int, default=256, help="indexing.max_block_dim")
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--training-items", type=int, default=65_536)
    parser.add_argument("--factory", nargs="+", default=["IVF1024,SQ8"], help="factory strings")
    parser.add_argument("--probes", type=int, default=64, help="fewest")
    parser.add_argument("--recall", type=float, default=0.99, help="to be reached")
    return parser.parse_args()


if __name__ == "__main__":
    main()
