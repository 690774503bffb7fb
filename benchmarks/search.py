"""Measure recall, speed and size of the gallery index on clustered vectors.

    OMP_NUM_THREADS=2 python benchmarks/search.py                     # 100,000 items, a minute
    OMP_NUM_THREADS=2 python benchmarks/search.py --items 1200000     # size of the target

The target (1.2 million vectors of 1,024 dimensions, 2 cores): recall@100 of at least 0.99 at 20
times the queries per second of exact search, in at most 1.5 GB. The generated vectors are
distributed like those of an encoder: categories, products within categories, about 13 photos of a
product, all near a surface of 64 dimensions, with noise in every direction. They are generated in
chunks, so they are never in memory as a whole. Queries are other photos of the same products.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from product1m.retrieval.embedding import normalize
from product1m.retrieval.index import (
    INDEX,
    ExactSearch,
    add_vectors,
    make_index,
    measure,
    write_index,
)
from product1m.telemetry.progress import track
from product1m.telemetry.usage import peak_memory_mib

CHUNK = 20_000
DEPTH = 100


@dataclass(frozen=True)
class Catalogue:
    """Distribution of the photos of a generated catalogue."""

    dim: int
    num_products: int
    num_categories: int = 458
    latent_dim: int = 64
    product_spread: float = 0.7
    photo_spread: float = 0.3
    noise: float = 0.5

    def vectors(self, count: int, seed: int) -> Float32[np.ndarray, "n D"]:
        """Unit vectors for photos of random products."""
        world, photos = np.random.default_rng(1), np.random.default_rng([2, seed])
        shape = (self.latent_dim, self.dim)
        surface = world.standard_normal(shape, dtype=np.float32) / np.float32(self.latent_dim**0.5)
        categories = world.standard_normal((self.num_categories, self.latent_dim))
        chosen = photos.integers(self.num_products, size=count)
        latent = categories[chosen % self.num_categories]
        latent = latent + self.product_spread * self._offsets(chosen)
        latent += self.photo_spread * photos.standard_normal(latent.shape)
        clean = normalize(latent.astype(np.float32) @ surface)
        noise = photos.standard_normal(clean.shape, dtype=np.float32)
        return normalize(clean + np.float32(self.noise / self.dim**0.5) * noise)

    def _offsets(self, products: np.ndarray) -> np.ndarray:
        """Offset of each product from the center of its category."""
        own = np.random.default_rng(3).standard_normal((self.num_products, self.latent_dim))
        return np.asarray(own[products])


def main() -> None:
    options = parse_arguments()
    catalogue = Catalogue(options.dim, max(1, options.items // 13))
    factory = options.factory or f"IVF{cells(options.items)},SQ8"
    training = catalogue.vectors(min(options.items, options.training_items), seed=0)
    index = make_index(factory, options.dim, len(training), options.probes, seed=0)
    started = time.monotonic()
    index.train(training)
    train_s = time.monotonic() - started
    del training
    exact = ExactSearch(catalogue.vectors(options.queries, seed=1), DEPTH)
    add_s = 0.0
    for vectors in chunks(catalogue, options.items):
        started = time.monotonic()
        add_vectors(index, vectors)
        add_s += time.monotonic() - started
        exact.add(vectors)
    quality = measure(index, exact)
    with tempfile.TemporaryDirectory() as folder:
        write_index(index, Path(folder) / INDEX)
        num_bytes = (Path(folder) / INDEX).stat().st_size
    faster = quality.queries_per_s / quality.exact_queries_per_s
    print(f"{options.items} items of {options.dim} dimensions, {factory}, {options.probes} probes")
    print(f"recall@{DEPTH}           {quality.recall:.4f}")
    print(f"queries per second   {quality.queries_per_s:.0f}")
    print(f"exact search         {quality.exact_queries_per_s:.1f}, {faster:.1f} times slower")
    print(
        f"index                {num_bytes / 1e9:.3f} GB, {num_bytes / options.items:.0f} B per item"
    )
    print(f"training, adding     {train_s:.0f} s, {add_s:.0f} s")
    print(f"peak memory          {peak_memory_mib() / 1024:.1f} GiB")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Recall, speed and size of the gallery index.")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--training-items", type=int, default=160_000)
    parser.add_argument("--factory", help="FAISS factory string; default: 4 √items cells with SQ8")
    parser.add_argument("--probes", type=int, default=16)
    return parser.parse_args()


def cells(num_items: int) -> int:
    """Power of two that is nearest to 4 √items."""
    return int(2 ** round(np.log2(4 * num_items**0.5)))


def chunks(catalogue: Catalogue, num_items: int) -> Iterator[Float32[np.ndarray, "n D"]]:
    for number in track(range(-(-num_items // CHUNK)), "adding"):
        size = min(CHUNK, num_items - number * CHUNK)
        yield catalogue.vectors(size, seed=2 + number)


if __name__ == "__main__":
    main()
