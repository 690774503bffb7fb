"""Measure recall, speed and size of the gallery index on vectors like those of a real index.

    OMP_NUM_THREADS=2 python benchmarks/search.py INDEX EVALUATION                   # 100,000 items
    OMP_NUM_THREADS=2 python benchmarks/search.py INDEX EVALUATION --items 1200000

The target (1.2 million items, 2 cores): recall@100 of at least 0.99 at 1,000 queries a second, in
at most 1.5 GB. INDEX and EVALUATION are artifacts of a run. Vectors are drawn block by block: each
block has the spectrum of that of the run, stretched to `--block-dim` dimensions, and the run's
shares of the spread between brands, between products of a brand, and between photos of a product.
Queries are other photos of the same products, with the weights that the run ships. They are
generated in chunks, so they are never in memory as a whole.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from product1m.artifacts.folder import open_artifact
from product1m.evaluation.artifact_files import shipped_weights
from product1m.retrieval.embedding import FIRST_AUTHOR, BlockLayout, normalize
from product1m.retrieval.index import (
    INDEX,
    ExactSearch,
    GalleryIndex,
    add_vectors,
    make_index,
    measure,
    write_index,
)
from product1m.telemetry.progress import track
from product1m.telemetry.usage import peak_memory_mib

CHUNK = 20_000
DEPTH = 100
NUM_BRANDS = 400
"""About as many groups of products as Product1M has (458 categories)."""


@dataclass(frozen=True)
class BlockShape:
    """How the vectors of a block differ."""

    deviations: Float32[np.ndarray, " W"]
    """Along its directions, the widest first."""
    photo_share: float
    """Share of the variance between photos of one product."""
    brand_share: float
    """Share of the variance between brands."""

    @classmethod
    def of(
        cls,
        vectors: Float32[np.ndarray, "n W"],
        products: Int64[np.ndarray, " n"],
        brands: Int64[np.ndarray, " n"],
        width: int,
    ) -> "BlockShape":
        """Of a block of an index, stretched or cut to a width."""
        centered = vectors - vectors.mean(axis=0)
        own = np.linalg.svd(centered, compute_uv=False)
        places = np.linspace(0, len(own) - 1, width)
        stretched = np.exp(np.interp(places, np.arange(len(own)), np.log(own + 1e-3 * own[0])))
        within, of_brand = (_spread_within(vectors, groups) for groups in (products, brands))
        every = float((centered**2).sum())
        return cls(stretched.astype(np.float32), within / every, 1 - of_brand / every)


def _spread_within(vectors: Float32[np.ndarray, "n W"], groups: Int64[np.ndarray, " n"]) -> float:
    means = np.zeros((groups.max() + 1, vectors.shape[1]))
    np.add.at(means, groups, vectors)
    means /= np.bincount(groups)[:, None]
    return float(((vectors - means[groups]) ** 2).sum())


@dataclass(frozen=True)
class Catalogue:
    """Photos of a generated catalogue."""

    blocks: dict[str, BlockShape]
    weights: dict[str, float]
    num_products: int

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return sum(len(shape.deviations) for shape in self.blocks.values())

    def vectors(self, count: int, seed: int) -> Float32[np.ndarray, "n D"]:
        """Vectors of photos of random products, every block of unit length."""
        photos = np.random.default_rng([2, seed])
        chosen = photos.integers(self.num_products, size=count)
        parts = []
        for number, shape in enumerate(self.blocks.values()):
            width = len(shape.deviations)
            brands = _centers(number, chosen % NUM_BRANDS, NUM_BRANDS, width)
            own = _centers(-1 - number, chosen, self.num_products, width)
            other = photos.standard_normal((count, width), dtype=np.float32)
            product_share = 1 - shape.brand_share - shape.photo_share
            mixed = np.float32(shape.brand_share**0.5) * brands
            mixed += np.float32(product_share**0.5) * own
            mixed += np.float32(shape.photo_share**0.5) * other
            parts.append(normalize(mixed * shape.deviations))
        return np.concatenate(parts, axis=1)

    def queries(self, count: int, seed: int) -> Float32[np.ndarray, "n D"]:
        """The same, weighted as the run weighs them."""
        widths = [len(shape.deviations) for shape in self.blocks.values()]
        factors = np.repeat([self.weights.get(name, 0.0) for name in self.blocks], widths)
        return self.vectors(count, seed) * factors.astype(np.float32)


@lru_cache(maxsize=16)
def _all_centers(kind: int, count: int, width: int) -> Float32[np.ndarray, "C W"]:
    generator = np.random.default_rng([1, kind + 100])
    return generator.standard_normal((count, width), dtype=np.float32)


def _centers(
    kind: int, chosen: Int64[np.ndarray, " n"], count: int, width: int
) -> Float32[np.ndarray, "n W"]:
    return np.asarray(_all_centers(kind, count, width)[chosen])


def read_catalogue(index: Path, evaluation: Path, width: int, num_items: int) -> Catalogue:
    """What the vectors of a run look like."""
    artifact = open_artifact(index, "indexing")
    gallery = GalleryIndex.load(artifact)
    layout = BlockLayout(artifact.manifest.details["blocks"])
    vectors = gallery.vectors(np.arange(len(gallery)))
    names = [labels[0].partition(" ")[0] for labels in gallery.rows["labels"]]
    _, brands = np.unique(names, return_inverse=True)
    blocks = {
        name: BlockShape.of(vectors[:, layout.columns(name)], gallery.products, brands, width)
        for name in layout.widths
        if name != FIRST_AUTHOR
    }
    weights = shipped_weights(open_artifact(evaluation, "evaluation"))
    return Catalogue(blocks, weights, max(1, num_items // 13))


def main() -> None:
    options = parse_arguments()
    catalogue = read_catalogue(options.index, options.evaluation, options.block_dim, options.items)
    for name, shape in catalogue.blocks.items():
        print(
            f"{name}: {shape.brand_share:.2f} of the spread between brands, "
            f"{shape.photo_share:.2f} between photos of one product"
        )
    factory = options.factory or f"IVF{cells(options.items)},SQ8"
    training = catalogue.vectors(min(options.items, options.training_items), seed=0)
    index = make_index(factory, catalogue.dim, len(training), options.probes, seed=0)
    started = time.monotonic()
    index.train(training)
    train_s = time.monotonic() - started
    del training
    exact = ExactSearch(catalogue.queries(options.queries, seed=1), DEPTH)
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
    print(
        f"{options.items} items of {catalogue.dim} dimensions, {factory}, {options.probes} probes"
    )
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
    parser.add_argument("index", type=Path, help="artifact of indexing")
    parser.add_argument("evaluation", type=Path, help="artifact of evaluation")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--block-dim", type=int, default=256, help="indexing.max_block_dim")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--training-items", type=int, default=65_536)
    parser.add_argument("--factory", help="FAISS factory string; default: 4 √items cells with SQ8")
    parser.add_argument("--probes", type=int, default=64)
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
