"""Measure how much memory the tables of a step need for each item, on invented lists.

    python benchmarks/memory.py                  # 50,000 and 200,000 items
    python benchmarks/memory.py --items 1200000

Each part runs in processes of its own, with a quarter of the items and with all of them; the growth
is the difference of their peaks over the difference of the items. Photos and vectors are not read:
they are shards, which stay on disk.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from product1m.artifacts.folder import open_artifact, write_artifact
from product1m.config import (
    BackgroundSynthesisConfig,
    FeatureExtractionConfig,
    IndexingConfig,
    IngestionConfig,
)
from product1m.data.items import ITEMS, SCHEMA, ItemTable
from product1m.data.lists import ListFile
from product1m.data.regions import REGIONS, FeatureSet
from product1m.data.regions import SCHEMA as REGION_SCHEMA
from product1m.evaluation.metrics import GroundTruth, score_queries
from product1m.retrieval.index import GALLERY, INDEX, GalleryIndex, write_index
from product1m.telemetry.usage import peak_memory_mib

CHUNK = 10_000
INDEXED = pa.schema([SCHEMA.field(name) for name in ("id", "caption", "labels", "sha256")])
TITLE = "正品MIRUNEA蜜露妮 水漾爽肤水150ml 补水保湿舒缓修护敏感肌官方 {:07d}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        PARTS[options.part](options.folder)
        print(peak_memory_mib())
        return
    peaks: dict[str, list[float]] = {part: [] for part in PARTS}
    sizes = (options.items // 4, options.items)
    for size in sizes:
        with tempfile.TemporaryDirectory() as scratch:
            write_world(Path(scratch), size)
            for part, part_peaks in peaks.items():
                part_peaks.append(peak_of(part, Path(scratch)))
    print(f"growth from {sizes[0]:,} to {sizes[1]:,} items")
    for part, (few, many) in peaks.items():
        growth = (many - few) * 1024 / (sizes[1] - sizes[0])
        print(f"{part:24} {few:7.0f} to {many:7.0f} MiB  {growth:6.2f} KiB an item")


def peak_of(part: str, folder: Path) -> float:
    command = [sys.executable, __file__, "--part", part, "--folder", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def write_world(folder: Path, size: int) -> None:
    """A list of train items, their table, that of their regions, and the rows of an index."""
    with (folder / "product1m_train_ossurl_v2.txt").open("w", encoding="utf-8") as lines:
        for number in range(size):
            url = f"https://img.example/{number:09d}.jpg"
            lines.write(
                f"{600_000_000_000 + number}#####{TITLE.format(number)}#####{url}#####{url}\n"
            )
    with (
        write_artifact(folder / "items", "ingestion", IngestionConfig(), part="train") as writer,
        pq.ParquetWriter(writer.folder / ITEMS, SCHEMA) as table,
    ):
        for start in range(0, size, CHUNK):
            table.write_table(item_rows(start, min(size, start + CHUNK)))
    config = FeatureExtractionConfig()
    with write_artifact(folder / "features", "feature_extraction", config, part="train") as writer:
        writer.details["feature_dim"] = 2048
        (writer.folder / ITEMS).write_bytes((folder / "items" / ITEMS).read_bytes())
        with pq.ParquetWriter(writer.folder / REGIONS, REGION_SCHEMA) as table:
            for start in range(0, size, CHUNK):
                table.write_table(region_rows(start, min(size, start + CHUNK)))
    with write_artifact(folder / "index", "indexing", IndexingConfig()) as writer:
        index = faiss.IndexFlatIP(1)
        with pq.ParquetWriter(writer.folder / GALLERY, INDEXED) as table:
            for start in range(0, size, CHUNK):
                rows = item_rows(start, min(size, start + CHUNK)).select(INDEXED.names)
                table.write_table(rows)
                index.add(np.ones((len(rows), 1), np.float32))
        write_index(index, writer.folder / INDEX)


def item_rows(start: int, end: int) -> pa.Table:
    numbers = range(start, end)
    columns = {
        "id": [str(600_000_000_000 + number) for number in numbers],
        "caption": [TITLE.format(number) for number in numbers],
        "labels": [[f"product {number // 87}"] for number in numbers],
        "group": [-1] * len(numbers),
        "split": [""] * len(numbers),
        "width": [800] * len(numbers),
        "height": [800] * len(numbers),
        "sha256": [f"{number:064x}" for number in numbers],
        "shard": [f"images-{number // 4000:05d}.tar" for number in numbers],
        "offset": [number % 4000 * 65_536 for number in numbers],
        "num_bytes": [60_000] * len(numbers),
    }
    return pa.table(columns, SCHEMA)


def region_rows(start: int, end: int) -> pa.Table:
    numbers = np.arange(start, end)
    columns = {
        "shard": [f"regions-{number // 1700:05d}.safetensors" for number in numbers.tolist()],
        "start": numbers % 1700 * 37,
        "count": np.full(len(numbers), 37),
        "checksum": numbers
        if pa.types.is_integer(REGION_SCHEMA.field("checksum").type)
        else [f"{number:016x}" for number in numbers.tolist()],
    }
    return pa.table(columns, REGION_SCHEMA)


def read_lists(folder: Path) -> None:
    """Ingestion: the rows of a list, each id once."""
    from product1m.data.rows import distinct_rows

    path = folder / "product1m_train_ossurl_v2.txt"
    for _ in distinct_rows([ListFile(path, "train")]):
        pass


def draw(folder: Path) -> None:
    """Synthesis: the candidates for cutting out."""
    from product1m.synthesis.cutouts import draw_candidates

    config = BackgroundSynthesisConfig()
    artifact = open_artifact(folder / "items", "ingestion")
    draw_candidates(artifact, max_candidates=20_000, set_words=config.set_words, seed=0)


def items(folder: Path) -> None:
    """Feature extraction, evaluation: the table of items."""
    ItemTable(open_artifact(folder / "items", "ingestion"))


def features(folder: Path) -> None:
    """Pretraining, indexing, evaluation: the tables of items and regions."""
    FeatureSet(open_artifact(folder / "features", "feature_extraction"))


def batches(folder: Path) -> None:
    """Pretraining: what makes batches, and the order of an epoch."""
    from product1m.capture.batches import EpochSampler, PretrainingBatches
    from product1m.capture.tokens import train_tokenizer
    from product1m.config import CapturePretrainingConfig
    from product1m.steps.capture_pretraining import batch_settings

    train = FeatureSet(open_artifact(folder / "features", "feature_extraction"))
    settings = replace(batch_settings(CapturePretrainingConfig()), scene_batch_size=0)
    made = PretrainingBatches(train, train, train_tokenizer([TITLE], 200), settings)
    EpochSampler(len(train), settings.batch_size, settings.seed).rows(made.batches_per_epoch - 1)


def gallery(folder: Path) -> None:
    """Evaluation, serving: the rows of an index, with vectors of one dimension."""
    GalleryIndex.load(open_artifact(folder / "index", "indexing"))


def ground_truth(folder: Path) -> None:
    """Evaluation: the same, and which item is right for a query."""
    index = GalleryIndex.load(open_artifact(folder / "index", "indexing"))
    asked = pd.DataFrame({"id": ["q"], "labels": [["product 7"]]})
    truth = GroundTruth.from_rows(asked, index.rows)
    score_queries({"q": [index.ids[place] for place in range(100)]}, truth, "strict", (100,))


PARTS: dict[str, Callable[[Path], None]] = {
    "lists": read_lists,
    "candidates": draw,
    "item table": items,
    "feature tables": features,
    "batches": batches,
    "rows of an index": gallery,
    "evaluation's tables": ground_truth,
}

if __name__ == "__main__":
    main()
