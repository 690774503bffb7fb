"""A catalogue that changes: `python benchmarks/catalogue.py build/benchmark --photos DIR`.

`DIR` is the folder `images` of a data set whose photos are the new items. The model is a registered
one, in the store that MLFLOW_TRACKING_URI names; a finished sample run has one.

First 10,000 random removals and additions go through an index of 40,000 invented vectors, a few
hundred at a time, as a catalogue's refresh changes it: recall and size are compared with an index
that is built anew. Then a catalogue of 40,000 items with small photos and invented vectors is
registered, a server follows it, and 100 of its items change by the commands that a person uses:
how long it takes until the server answers with them, while it is asked all the time.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import requests
from jaxtyping import Float32
from PIL import Image

from product1m.artifacts.folder import Artifact, open_artifact, write_artifact
from product1m.catalogue.batches import VECTORS_PART, Batches, KnownVectors, vector_keys
from product1m.catalogue.embedding import CatalogueModel, vectors_address
from product1m.catalogue.indexing import CatalogueIndexSettings, FilledIndex, refresh_index
from product1m.catalogue.intake import take_in
from product1m.config import CatalogueConfig, RegistrationConfig
from product1m.registry.loading import fetch_model
from product1m.retrieval.index import GALLERY, INDEX, GalleryIndex
from product1m.serving.catalogue_folder import STEP
from product1m.serving.model_folder import model_in
from product1m.serving.signatures import Trust
from product1m.storage.scratch import scratch_folder

FACTORY, PROBES = "IVF1024,SQ8", 64
NAME = "product1m-catalogue-benchmark"
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


def write_shop(folder: Path, num_items: int) -> None:
    """A gallery list with small photos, all different."""
    (folder / "images").mkdir(parents=True)
    generator = np.random.default_rng(0)
    with (folder / "gallery.jsonl").open("w", encoding="utf-8") as lines:
        for number in range(num_items):
            item = f"item-{number}"
            pixels = generator.integers(0, 255, (4, 4, 3), np.uint8)
            Image.fromarray(pixels).resize((48, 48)).save(folder / "images" / f"{item}.jpg")
            line = {
                "id": item,
                "caption": f"invented item {number}",
                "labels": [item],
                "image": f"images/{item}.jpg",
            }
            lines.write(json.dumps(line) + "\n")


def write_new_items(folder: Path, photos: Path, number: int) -> None:
    """A gallery list with photos of a data set, which pass through the model."""
    (folder / "images").mkdir(parents=True)
    with (folder / "gallery.jsonl").open("w", encoding="utf-8") as lines:
        for place, photo in enumerate(sorted(photos.iterdir())[:number]):
            os.link(photo, folder / "images" / f"new-{place}.jpg")
            name = f"images/new-{place}.jpg"
            line = {
                "id": f"new-{place}",
                "caption": f"new item {place}",
                "labels": ["new"],
                "image": name,
            }
            lines.write(json.dumps(line) + "\n")


def know_vectors(shop: Path, model: str, cache: str, scratch: Path) -> None:
    """Keep an invented vector of every item in the cache, as if a refresh had made it."""
    trust = Trust.of_consumer()
    fetched = fetch_model(model, RegistrationConfig().candidate_model, trust, scratch)
    opened = CatalogueModel.open(model_in(fetched))
    own = GalleryIndex.load(opened.index)
    centers = own.vectors(np.arange(len(own)))
    rows = take_in(str(shop), None, opened.config.ingestion, cache, scratch / "photos").rows
    address = vectors_address(cache, opened.digest)
    known = KnownVectors(Batches(address, STEP, VECTORS_PART, scratch / "known"))
    made = InventedVectors(centers, len(rows))(rows)
    known.add(vector_keys(rows), made, scratch / "vectors", CatalogueConfig())


def product1m(*arguments: str) -> None:
    """Run a command as a person does."""
    command = [sys.executable, "-m", "product1m", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(f"product1m {' '.join(arguments)}: {ended.stdout}{ended.stderr}")


@contextmanager
def following(model: str) -> Iterator[str]:
    """Address of a server that follows the catalogue."""
    command = [sys.executable, "-m", "product1m", "serve", "--port=0", f"--model={model}"]
    process = subprocess.Popen(
        [*command, f"--catalogue={NAME}"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PRODUCT1M_LOG": "json"},
        text=True,
    )
    assert process.stderr is not None
    text = next((line for line in process.stderr if '"url"' in line), "")
    if not text:
        sys.exit("the server did not start")
    with ThreadPoolExecutor(1) as reader:
        reader.submit(process.stderr.read)
        try:
            yield json.loads(text)["url"]
        finally:
            process.terminate()
            process.wait()


@dataclass
class Customer:
    """Asks all the time until the block ends."""

    url: str
    photo: bytes
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def ask(self) -> Any:
        """The answer to the photo; None if there is none."""
        started = time.perf_counter()
        try:
            answer = requests.post(f"{self.url}search", files={"photo": self.photo}, timeout=600)
            answer.raise_for_status()
        except requests.RequestException as error:
            self.failures.append(str(error))
            return None
        self.seconds.append(time.perf_counter() - started)
        return answer.json()

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Ask in a thread."""
        ended = threading.Event()

        def run() -> None:
            while not ended.wait(0.2):
                self.ask()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def live(
    root: Path, factory: str, photos: Path, model: str, num_items: int, num_changes: int
) -> None:
    """Change a catalogue that a server follows."""
    shop, new, cache = root / "shop", root / "new", str(root / "cache")
    write_shop(shop, num_items)
    write_new_items(new, photos, num_changes // 2)
    with scratch_folder() as scratch:
        know_vectors(shop, model, cache, scratch)
    values = {"cache": cache, "factory": factory, "probes": PROBES, "catalogue_model": NAME}
    options = [f"--set=catalogue.{key}={value}" for key, value in values.items()]
    options += [f"--model={model}", "--register"]
    refresh = ["catalogue", "refresh", str(shop), str(root / "index"), *options]
    started = time.perf_counter()
    product1m(*refresh)
    print(f"{num_items} items, {num_changes} changes; the first refresh", end=" ")
    print(f"took {time.perf_counter() - started:.0f} s")
    gone = [f"item-{number}" for number in range(num_changes // 2)]
    with following(model) as url:
        customer = Customer(url, (new / "images" / "new-0.jpg").read_bytes())
        before = served(url)
        with customer.asking():
            times = [time.perf_counter()]
            product1m("catalogue", "remove", str(shop), *gone)
            product1m("catalogue", "add", str(shop), f"--from={new}")
            times.append(time.perf_counter())
            product1m(*refresh)
            times.append(time.perf_counter())
            while served(url) == before:
                time.sleep(0.1)
            times.append(time.perf_counter())
        answer = customer.ask()
    report(customer, [item["id"] for item in answer["merged"]], times)


def served(url: str) -> str:
    """Digest of the catalogue that answers."""
    return str(requests.get(f"{url}models", timeout=600).json()[0]["catalogue_digest"])


def report(customer: Customer, found: list[str], times: Sequence[float]) -> None:
    """Print how long the changes took, and what a customer noticed."""
    edit_s, refresh_s, swap_s = np.diff(times)
    print(f"  answered {times[-1] - times[0]:.0f} s after the first edit began:", end=" ")
    print(f"edits {edit_s:.0f}, refresh and registration {refresh_s:.0f}, swap {swap_s:.0f}")
    seconds = customer.seconds
    print(f"  {len(seconds)} photos were answered meanwhile,", end=" ")
    print(f"{len(customer.failures)} requests failed; slowest answer {max(seconds):.2f} s")
    print(f"  a new item's photo finds it: {'new-0' in found}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="Empty or new folder.")
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--model", default="models:/product1m-candidate@challenger")
    parser.add_argument("--items", type=int, default=40_000)
    parser.add_argument("--factory", default=FACTORY, help="FAISS factory string.")
    parser.add_argument("--parts", nargs="+", default=["churn", "live"])
    arguments = parser.parse_args()
    if "churn" in arguments.parts:
        churn(arguments.folder / "churn", arguments.factory, arguments.items, 10_000, 250)
    if "live" in arguments.parts:
        root, photos = arguments.folder / "live", arguments.photos
        live(root, arguments.factory, photos, arguments.model, arguments.items, 100)
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")


if __name__ == "__main__":
    main()
