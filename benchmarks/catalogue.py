"""An index that changes in place: `python benchmarks/catalogue.py build/benchmark`.

10,000 random removals and additions go through an index of 40,000 invented vectors, some hundred at
a time, as a refresh of a catalogue changes it: recall and size are compared with those of an index
that is built anew.
"""

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32

from product1m.artifacts.folder import Artifact, open_artifact, write_artifact
from product1m.catalogue.indexing import (
    PROBES_WHEN_BUILT,
    CatalogueIndexSettings,
    FilledIndex,
    refresh_index,
)
from product1m.config import CatalogueConfig
from product1m.retrieval.index import GALLERY, INDEX
from product1m.serving.catalogue_folder import STEP

FACTORY, PROBES = "IVF1024,SQ8", 64
CHUNK = 4096
"""Vectors made at the same time."""
DIM = 960
"""Width of the sample model's vectors."""


def settings(factory: str) -> CatalogueIndexSettings:
    """As the defaults of a catalogue, with an index for 40,000 items."""
    config = CatalogueConfig()
    return CatalogueIndexSettings(
        factory, PROBES, 65_536, 1000, config.min_recall, config.max_clipped_share, 0
    )


class InventedVectors:
    """Vectors of the items `item-0`, `item-1`, … around some centers, as products of a shop."""

    def __init__(self, centers: Float32[np.ndarray, "C D"], number: int) -> None:
        generator = np.random.default_rng(0)
        self._made = np.empty((number, centers.shape[1]), np.float16)
        for start in range(0, number, CHUNK):
            rows = self._made[start : start + CHUNK]
            first, second = centers[generator.integers(len(centers), size=(2, len(rows)))]
            rows[:] = 0.7 * first + 0.3 * second + generator.normal(0, 0.02, rows.shape)

    def __call__(self, rows: pd.DataFrame) -> Float32[np.ndarray, "n D"]:
        """The vectors of some items, row for row."""
        return self._made[[int(item[5:]) for item in rows["id"]]].astype(np.float32)


def table(numbers: Sequence[int]) -> pd.DataFrame:
    """Items by their number."""
    ids = [f"item-{number}" for number in numbers]
    empty: list[list[str]] = [[] for _ in ids]
    return pd.DataFrame({"id": ids, "caption": ids, "labels": empty, "sha256": ids})


def written(folder: Path, filled: FilledIndex) -> Artifact:
    """The index as the artifact that the next refresh changes."""
    with write_artifact(folder / "artifact", STEP, CatalogueConfig()) as writer:
        os.link(folder / INDEX, writer.folder / INDEX)
        writer.metrics[PROBES_WHEN_BUILT] = float(filled.probes_when_built)
        pq.write_table(
            pa.Table.from_pandas(filled.rows, preserve_index=False), writer.folder / GALLERY
        )
    return open_artifact(folder / "artifact", STEP)


def churn(root: Path, factory: str, num_items: int, num_changes: int, at_once: int) -> None:
    """Remove and add items at random, and compare with an index that is built anew."""
    generator = np.random.default_rng(0)
    centers = generator.normal(0, DIM**-0.5, (450, DIM)).astype(np.float32)
    vectors = InventedVectors(centers, num_items + num_changes)
    numbers, first_new = list(range(num_items)), num_items
    before: Artifact | None = None
    filled: FilledIndex | None = None
    seconds, rebuilt = [], 0
    for turn in range(1 + num_changes // (2 * at_once)):
        if turn:
            gone = set(generator.choice(len(numbers), at_once, replace=False).tolist())
            numbers = [number for place, number in enumerate(numbers) if place not in gone]
            numbers += range(first_new, first_new + at_once)
            first_new += at_once
        folder = root / f"turn-{turn}"
        folder.mkdir(parents=True)
        started = time.perf_counter()
        filled = refresh_index(before, table(numbers), vectors, settings(factory), folder)
        seconds.append(time.perf_counter() - started)
        rebuilt += filled.rebuilt and turn > 0
        before = written(folder, filled)
    assert filled is not None
    (root / "fresh").mkdir()
    fresh = refresh_index(None, table(numbers), vectors, settings(factory), root / "fresh")
    sizes = [(folder / INDEX).stat().st_size for folder in (root / f"turn-{turn}", root / "fresh")]
    print(f"{num_items} items, {num_changes} removals and additions, {2 * at_once} at once:")
    print(f"  recall@100 {filled.recall:.4f}, built anew {fresh.recall:.4f}; {rebuilt} rebuilds")
    print(f"  size {sizes[0] / sizes[1]:.4f} of that of an index built anew")
    print(f"  first build {seconds[0]:.0f} s, a refresh {np.median(seconds[1:]):.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="Empty or new folder.")
    parser.add_argument("--items", type=int, default=40_000)
    parser.add_argument("--factory", default=FACTORY, help="FAISS factory string.")
    arguments = parser.parse_args()
    churn(arguments.folder, arguments.factory, arguments.items, 10_000, 500)
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")


if __name__ == "__main__":
    main()
