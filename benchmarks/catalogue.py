"""A catalogue that changes daily: `python benchmarks/catalogue.py build/sample build/benchmark`.

The first argument is the output folder of `make sample`, whose registered model is used. A
catalogue of 40,000 items is invented around the items of its gallery. Then

1. 10,000 random removals and additions go through its index, 1,000 at a time, as a refresh makes
   them; recall and size are compared with those of a new index;
2. a running `product1m serve` answers photos without a pause while 100 items change, are refreshed,
   registered and followed; the time from the edit to the answer, and requests that failed, count.
"""

import argparse
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import requests
from jaxtyping import Float32
from serving import ask, questions, running

from product1m.artifacts.folder import Artifact, ArtifactWriter, open_artifact, write_artifact
from product1m.artifacts.manifest import MANIFEST
from product1m.artifacts.model_parts import THUMBNAILS
from product1m.catalogue.batches import VECTORS_PART, Batches, KnownVectors, vector_keys
from product1m.catalogue.checks import CanaryRanking, CheckLimits, ask_canaries, write_canaries
from product1m.catalogue.embedding import CatalogueModel, vectors_address
from product1m.catalogue.indexing import (
    PROBES_WHEN_BUILT,
    CatalogueIndexSettings,
    FilledIndex,
    refresh_index,
)
from product1m.catalogue.intake import SOURCES
from product1m.catalogue.listing import Listing, stamped
from product1m.catalogue.new_items import from_photo
from product1m.catalogue.points import SHARD_ROWS
from product1m.catalogue.registering import COUNTS, register_catalogue
from product1m.catalogue.store import CatalogueStore
from product1m.config import CatalogueConfig, RegistrationConfig
from product1m.data.items import ItemWriter
from product1m.data.lists import ListFile
from product1m.data.points import PointTable, PointWriter
from product1m.data.vectors import normalize
from product1m.retrieval.index import GALLERY, INDEX, GalleryIndex
from product1m.serving.catalogue_folder import ENCODER_FILES, MODEL, STEP
from product1m.serving.model_folder import MODEL_FOLDER
from product1m.serving.thumbnails import PART, Thumbnails
from product1m.steps.catalogue import refresh_live
from product1m.storage.opening import open_store
from product1m.telemetry.mlflow_files import DATABASE, FILES, sqlite_uri

FACTORY, PROBES = "IVF1024,SQ8", 64
"""The defaults of `indexing`, made for 40,000 items."""
ITEMS_A_PRODUCT = 8
"""As in the sample's gallery."""
CHUNK = 4096
"""Vectors made at the same time."""


def settings(factory: str) -> CatalogueIndexSettings:
    """As the defaults of a catalogue, with an index for 40,000 items."""
    config = CatalogueConfig()
    return CatalogueIndexSettings(
        factory, PROBES, 65_536, 1000, config.min_recall, config.max_clipped_share, 0
    )


class InventedVectors:
    """Vectors of the items `item-0`, `item-1`, …, like those of a real gallery.

    A product's center is a mixture of three real items, more of one than of the others; its items
    differ from it as two real items of one product differ. Each block is normalized.
    """

    def __init__(self, index: Artifact, number: int) -> None:
        gallery = GalleryIndex.load(index)
        self._real = gallery.vectors(np.arange(len(gallery)))
        self._widths = list(index.manifest.details["blocks"].values())
        generator = np.random.default_rng(0)
        products = pd.Series(gallery.products).groupby(gallery.products).groups.values()
        pairs = [pair for rows in products if len(rows) > 1 for pair in _pairs(list(rows))]
        self._differences = np.array(pairs)
        mixed = (number // ITEMS_A_PRODUCT + 1, 3)
        parents = generator.integers(len(gallery), size=mixed)
        shares = generator.dirichlet((3.0, 1.0, 1.0), len(parents)).astype(np.float32)
        self._made = np.empty((number, self._real.shape[1]), np.float16)
        for start in range(0, number, CHUNK):
            stop = min(start + CHUNK, number)
            product = generator.integers(len(parents), size=stop - start)
            centers = np.einsum("nk,nkd->nd", shares[product], self._real[parents[product]])
            self._made[start:stop] = self._normalized(
                centers + self._spread(stop - start, generator)
            )

    def _spread(self, number: int, generator: np.random.Generator) -> Float32[np.ndarray, "n D"]:
        first, second = self._differences[generator.integers(len(self._differences), size=number)].T
        size = generator.uniform(0.3, 1.0, (number, 1)).astype(np.float32)
        return np.asarray(size * (self._real[first] - self._real[second]))

    def _normalized(self, vectors: Float32[np.ndarray, "n D"]) -> Float32[np.ndarray, "n D"]:
        blocks = np.split(vectors, np.cumsum(self._widths)[:-1], axis=1)
        return np.concatenate([normalize(block) for block in blocks], axis=1)

    def __call__(self, rows: pd.DataFrame) -> Float32[np.ndarray, "n D"]:
        """The vectors of some items, row for row."""
        return self._made[[int(item[5:]) for item in rows["id"]]].astype(np.float32)


def _pairs(rows: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(rows, [*rows[1:], rows[0]], strict=True))


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


def churn(
    root: Path,
    vectors: InventedVectors,
    chosen: CatalogueIndexSettings,
    num_items: int,
    num_changes: int,
    at_once: int,
) -> None:
    """Remove and add items at random, and compare with a new index."""
    generator = np.random.default_rng(0)
    numbers, first_new = list(range(num_items)), num_items
    before: Artifact | None = None
    filled: FilledIndex | None = None
    seconds, rebuilt, recalls = [], 0, []
    for turn in range(1 + num_changes // (2 * at_once)):
        if turn:
            gone = set(generator.choice(len(numbers), at_once, replace=False).tolist())
            numbers = [number for place, number in enumerate(numbers) if place not in gone]
            numbers += range(first_new, first_new + at_once)
            first_new += at_once
        folder = root / f"turn-{turn}"
        folder.mkdir(parents=True)
        started = time.perf_counter()
        filled = refresh_index(before, table(numbers), vectors, chosen, folder)
        seconds.append(time.perf_counter() - started)
        recalls.append(filled.recall)
        rebuilt += filled.rebuilt and turn > 0
        before = written(folder, filled)
    assert filled is not None
    (root / "fresh").mkdir()
    fresh = refresh_index(None, table(numbers), vectors, chosen, root / "fresh")
    sizes = [(folder / INDEX).stat().st_size for folder in (root / f"turn-{turn}", root / "fresh")]
    print(f"{num_items} items, {num_changes} removals and additions, {2 * at_once} at once:")
    print(
        f"  recall@100 {recalls[0]:.4f} at first, {filled.recall:.4f} in the end (lowest "
        f"{min(recalls):.4f}), a new index {fresh.recall:.4f}; {rebuilt} rebuilds"
    )
    print(f"  size {sizes[0] / sizes[1]:.4f} of that of a new index")
    print(f"  first build {seconds[0]:.0f} s, a refresh {np.median(seconds[1:]):.1f} s")


def model_of(sample: Path) -> Path:
    """The newest model folder that a run registered."""
    pattern = f"{FILES}/models/*/artifacts/artifacts/{MODEL_FOLDER}"
    return max(sample.glob(pattern), key=lambda path: path.stat().st_mtime)


class Shop:
    """A catalogue of invented items, with the photos of the sample's gallery, and its MLflow store.

    Args:
        root: an empty folder.
        sample: output folder of `make sample`; its store is copied, its model used.
    """

    def __init__(self, root: Path, sample: Path) -> None:
        self.store, self.list = root / "store", root / "shop"
        shutil.copytree(sample / FILES, self.store / FILES, copy_function=os.link)
        shutil.copy(sample / DATABASE, self.store / DATABASE)
        os.environ |= {
            "MLFLOW_TRACKING_URI": sqlite_uri(self.store / DATABASE),
            "PRODUCT1M_ALLOW_UNSIGNED": "true",
            "PRODUCT1M_WORK": str(root / "work"),
        }
        summary = json.loads((sample / "summary.json").read_text("utf-8"))
        self.photos = Path(summary["dataset"]["dataset_uri"])
        self.model = "models:/{name}/{version}".format(**summary["model"])
        self.folder = model_of(sample)
        self.opened = CatalogueModel.open(self.folder)
        self.config = CatalogueConfig(factory=FACTORY, probes=PROBES, cache=str(root / "cache"))
        self._scratch = root / "scratch"

    def first(self, folder: Path, vectors: InventedVectors, num_items: int) -> None:
        """Write and register the catalogue that the changes are made to."""
        real = GalleryIndex.load(self.opened.index)
        places = [number % len(real) for number in range(num_items)]
        rows = table(range(num_items))
        rows["labels"] = [real.rows["labels"][place] for place in places]
        rows["sha256"] = [real.rows["sha256"][place] for place in places]
        self._write_list(rows, [real.ids[place] for place in places])
        address = vectors_address(self.config.cache, self.opened.digest)
        known = KnownVectors(Batches(address, STEP, VECTORS_PART, self._scratch / "known"))
        known.add(vector_keys(rows), vectors(rows), self._scratch / "vectors", self.config)
        with write_artifact(folder, STEP, self.config) as writer:
            filled = refresh_index(None, rows, vectors, settings(FACTORY), writer.folder)
            points = self._write(writer, filled, real, places)
            ranking = CanaryRanking.from_config(
                self.opened.index.manifest.details["blocks"], self.opened.config
            )
            filled = replace(filled, gallery=filled.gallery.with_points(PointTable(*points)))
            limits = CheckLimits(0.99, 50, 10, max_shrinkage=1, max_growth=1)
            answers = ask_canaries(filled, {}, vectors, limits, 0, ranking)
            write_canaries(writer.folder, answers)
            writer.details.update(self.opened.index.manifest.details)
            writer.details.update({MODEL: self.opened.digest, "checks": []})
            writer.metrics.update(dict.fromkeys(COUNTS, 1.0), num_items=float(num_items))
            writer.metrics[PROBES_WHEN_BUILT] = float(filled.probes_when_built)
        register_catalogue(folder, self.config.catalogue_model, self.model)

    def _write_list(self, rows: pd.DataFrame, photos: Sequence[str]) -> None:
        (self.list / "images").mkdir(parents=True)
        for photo in set(photos):
            os.link(self.photos / "images" / f"{photo}.jpg", self.list / "images" / f"{photo}.jpg")
        lines = [
            {"id": item, "caption": item, "labels": labels, "image": f"images/{photo}.jpg"}
            for item, labels, photo in zip(rows["id"], rows["labels"], photos, strict=True)
        ]
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        (self.list / "gallery.jsonl").write_text(text, "utf-8")

    def _write(
        self, writer: ArtifactWriter, filled: FilledIndex, real: GalleryIndex, places: Sequence[int]
    ) -> list[Path]:
        """Everything beside the index, as a refresh writes it; returns the files of points."""
        folder = writer.folder
        pq.write_table(pa.Table.from_pandas(filled.rows, preserve_index=False), folder / GALLERY)
        listed = stamped(
            ListFile(self.list / "gallery.jsonl", "gallery"), open_store(str(self.list))
        )
        stamps = {row.item.id: row.stamp for row in listed if isinstance(row, Listing)}
        (folder / SOURCES).write_text(json.dumps(stamps), "utf-8")
        for name in ENCODER_FILES:
            (folder / name).write_bytes(self.opened.index.file(name).read_bytes())
        points = real.points
        assert points is not None, "the sample's model gives shared points a weight"
        files: list[Path] = []
        for start in range(0, len(places), SHARD_ROWS):
            files.append(folder / f"points-{len(files):05d}.arrow")
            with PointWriter(folder, files[-1].name) as written:
                for place in places[start : start + SHARD_ROWS]:
                    written.add(points[place])
        small = Thumbnails(self.folder / THUMBNAILS)
        config = RegistrationConfig(thumbnail_side_px=self.config.thumbnail_side_px)
        with (
            write_artifact(folder / THUMBNAILS, "registration", config, part=PART) as pictures,
            ItemWriter(pictures.folder, prefix=PART) as thumbnails,
        ):
            for item, place in zip(filled.rows["id"], places, strict=True):
                jpeg = small.jpeg(real.ids[place])
                assert jpeg is not None
                thumbnails.add(item, jpeg, (96, 96), caption=item, labels=[])
        writer.timed.add(f"{THUMBNAILS}/{MANIFEST}")
        return files


def change(shop: Shop, num_changes: int) -> tuple[bytes, str, str]:
    """Add half as many items, replace a quarter, remove a quarter; photo, title and id of one."""
    lines = (shop.photos / "product1m_train_ossurl_v2.txt").read_text("utf-8").splitlines()
    rows = [line.split("#####") for line in lines[: num_changes * 3 // 4]]
    ids = [f"new-{n}" if n < num_changes // 2 else f"item-{n}" for n in range(len(rows))]
    new = [
        from_photo(shop.photos / "images" / f"{row[0]}.jpg", item, row[1])
        for item, row in zip(ids, rows, strict=True)
    ]
    store = CatalogueStore(str(shop.list))
    store.add(new, "benchmark")
    store.remove([f"item-{1000 + n}" for n in range(num_changes // 4)], "benchmark")
    photo = shop.photos / "images" / f"{rows[0][0]}.jpg"
    return photo.read_bytes(), rows[0][1], ids[0]


class Customer(threading.Thread):
    """Asks one photo after the other until it is stopped."""

    def __init__(self, url: str, questions: Sequence[tuple[bytes, str]]) -> None:
        super().__init__(daemon=True)
        self._url, self._questions = url, questions
        self.seconds: list[float] = []
        self.failures: list[str] = []
        self.stopped = threading.Event()

    def run(self) -> None:  # noqa: D102
        while not self.stopped.is_set():
            for question in self._questions:
                try:
                    self.seconds.append(ask(self._url, question))
                except requests.RequestException as error:
                    self.failures.append(str(error))
                if self.stopped.wait(0.2):
                    return


def serve_changes(root: Path, sample: Path, vectors: InventedVectors, num_items: int) -> None:
    """Change 100 items while a server answers; when does it answer from them?"""
    shop = Shop(root, sample)
    shop.first(root / "first", vectors, num_items)
    with running(shop.model) as (url, _):
        customer = Customer(url, questions(shop.photos, 20))
        customer.start()
        started = time.perf_counter()
        photo, title, item = change(shop, 100)
        refresh_live(str(shop.list), shop.model, root / "second", shop.config)
        registered = time.perf_counter()
        num_before = len(customer.seconds)
        while not is_first(url, photo, title, item):
            time.sleep(0.5)
        ended = time.perf_counter()
        time.sleep(5)
        customer.stopped.set()
        customer.join()
    made = open_artifact(root / "second", STEP).manifest.metrics
    print(
        f"100 changes in {num_items} items: answered {ended - started:.0f} s after the first edit"
    )
    print(f"  registered after {registered - started:.0f} s; recall@100 {made['recall@100']:.4f}")
    print(
        f"  {len(customer.seconds)} requests ({len(customer.seconds) - num_before} since then), "
        f"{len(customer.failures)} failed; median {np.median(customer.seconds) * 1000:.0f} ms, "
        f"longest {max(customer.seconds) * 1000:.0f} ms"
    )


def is_first(url: str, photo: bytes, title: str, item: str) -> bool:
    """Whether an item is the first answer of any box of a photo."""
    form = {"photo": photo}
    answer = requests.post(f"{url}search", files=form, data={"title": title}, timeout=600).json()
    return item in [box["answers"][0]["id"] for box in answer["boxes"] if box["answers"]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sample", type=Path, help="Output folder of `make sample`.")
    parser.add_argument("folder", type=Path, help="Folder to work in; its content is removed.")
    parser.add_argument("--items", type=int, default=40_000)
    parser.add_argument("--factory", default=FACTORY, help="FAISS factory string.")
    parser.add_argument("--only", choices=("churn", "serve"), default="")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    index = open_artifact(model_of(arguments.sample) / "index", "indexing")
    vectors = InventedVectors(index, arguments.items + 5_000)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as root:
        if arguments.only != "serve":
            chosen = settings(arguments.factory)
            churn(Path(root) / "churn", vectors, chosen, arguments.items, 10_000, 500)
        if arguments.only != "churn":
            serve_changes(Path(root), arguments.sample, vectors, arguments.items)
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")


if __name__ == "__main__":
    main()
