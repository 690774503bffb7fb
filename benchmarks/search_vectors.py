"""Vectors of an invented catalogue that are like those of a run.

The vectors of a run's gallery are taken apart into brands, products of a brand, and photos of a
product; those of its query boxes into product and the rest. An invented one is a brand, a product
and a photo, and each of these is a mixture of a few real ones with random signs and sizes: all
blocks at once, so that what belongs together in the run stays together. `likeness` compares the
similarities of neighbors.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64, UInt64

from product1m.data.vectors import normalize

NUM_BRANDS = 400
MIXED = 16
"""Real ones in a mixture: neighbors are as similar as in the sample run (ours)."""
SIZE_SPREAD = 1.3
"""Deviation of the logarithm of a product's photos: in the paper's dev list the mean number of rows
of a product is 2.4 times the median."""
CHUNK = 10_000
_BRAND, _PRODUCT, _PHOTO = 1, 2, 3


@dataclass(frozen=True)
class RunVectors:
    """What a run embedded, blocks as wide as they are stored."""

    widths: dict[str, int]
    gallery: Float32[np.ndarray, "n D"]
    labels: list[str]
    queries: Float32[np.ndarray, "q D"]
    query_labels: list[str]
    """Of each query box; empty if it shows no product of the gallery, or several."""
    weights: dict[str, float]

    def stretched(self, width: int) -> "RunVectors":
        """With every block turned into `width` dimensions, wider ones cut to their leading ones."""
        gallery, queries, start = [], [], 0
        for own in self.widths.values():
            columns = slice(start, start + own)
            turn = _turn(self.gallery[:, columns], width)
            gallery.append(normalize(self.gallery[:, columns] @ turn))
            queries.append(normalize(self.queries[:, columns] @ turn))
            start += own
        return RunVectors(
            dict.fromkeys(self.widths, width),
            np.concatenate(gallery, axis=1),
            self.labels,
            np.concatenate(queries, axis=1),
            self.query_labels,
            self.weights,
        )


def _turn(block: Float32[np.ndarray, "n W"], width: int) -> Float32[np.ndarray, "W K"]:
    own = block.shape[1]
    if own > width:
        _, vectors = np.linalg.eigh(block.T.astype(np.float64) @ block)
        return np.ascontiguousarray(vectors[:, ::-1][:, :width], np.float32)
    turned, _ = np.linalg.qr(np.random.default_rng(own).standard_normal((width, width)))
    return np.ascontiguousarray(turned[:own], np.float32)


class Catalogue:
    """Photos of an invented catalogue."""

    def __init__(self, run: RunVectors, num_products: int) -> None:
        self._widths = list(run.widths.values())
        weights = [run.weights.get(name, 0.0) for name in run.widths]
        self._factors = np.repeat(weights, self._widths).astype(np.float32)
        _, products = np.unique(run.labels, return_inverse=True)
        _, all_brands = np.unique(
            [label.partition(" ")[0] for label in run.labels], return_inverse=True
        )
        means, brands = group_means(run.gallery, products), np.zeros(products.max() + 1, np.int64)
        brands[products] = all_brands
        brand_means = group_means(means, brands)
        self._mean = brand_means.mean(axis=0)
        self._photos = _deviations(run.gallery, means, products)
        self._products = _deviations(means, brand_means, brands)
        # The run has few brands: the directions are those of its products, the sizes of its brands.
        self._brands = self._sized_as(means - self._mean, brand_means - self._mean)
        places = {label: row for row, label in enumerate(np.unique(run.labels).tolist())}
        known = [row for row, label in enumerate(run.query_labels) if label in places]
        shown = [places[run.query_labels[row]] for row in known]
        self._boxes = run.queries[known] - means[shown]
        sizes = np.exp(SIZE_SPREAD * _normal(np.arange(num_products), 777))
        self._shares = np.cumsum(sizes) / sizes.sum()

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return sum(self._widths)

    def items(self, count: int, seed: int) -> Float32[np.ndarray, "n D"]:
        """Photos of random products, every block of unit length."""
        return self._made(self._photos, count, seed)

    def boxes(self, count: int, seed: int) -> Float32[np.ndarray, "n D"]:
        """Query boxes of random products, weighted as the run weighs them."""
        return self._made(self._boxes, count, seed) * self._factors

    def chunks(self, count: int) -> Iterator[Float32[np.ndarray, "n D"]]:
        """All items."""
        for start in range(0, count, CHUNK):
            yield self.items(min(CHUNK, count - start), seed=2 + start)

    def _made(
        self, own: Float32[np.ndarray, "m D"], count: int, seed: int
    ) -> Float32[np.ndarray, "n D"]:
        generator = np.random.default_rng([2, seed])
        chosen = np.searchsorted(self._shares, generator.random(count))
        products = np.minimum(chosen, len(self._shares) - 1)
        made = self._mean + _mixed(self._brands, products % NUM_BRANDS, _BRAND)
        made += _mixed(self._products, products, _PRODUCT)
        made += _mixed(own, generator.integers(1 << 40, size=count), _PHOTO)
        ends = np.cumsum(self._widths)[:-1]
        return np.concatenate([normalize(block) for block in np.split(made, ends, 1)], axis=1)

    def _sized_as(
        self, directions: Float32[np.ndarray, "n D"], sizes: Float32[np.ndarray, "m D"]
    ) -> Float32[np.ndarray, "n D"]:
        ends = np.cumsum(self._widths)[:-1]
        blocks = zip(np.split(directions, ends, 1), np.split(sizes, ends, 1), strict=True)
        count = len(sizes) / max(1, len(sizes) - 1)
        scaled = [
            block * np.sqrt(count * (own**2).sum(1).mean() / (block**2).sum(1).mean())
            for block, own in blocks
        ]
        return np.concatenate(scaled, axis=1).astype(np.float32)


def group_means(
    vectors: Float32[np.ndarray, "n D"], groups: Int64[np.ndarray, " n"]
) -> Float32[np.ndarray, "g D"]:
    """The mean of each group's vectors."""
    means = np.zeros((groups.max() + 1, vectors.shape[1]), np.float32)
    np.add.at(means, groups, vectors)
    return means / np.bincount(groups)[:, None].astype(np.float32)


def _deviations(
    vectors: Float32[np.ndarray, "n D"],
    means: Float32[np.ndarray, "g D"],
    groups: Int64[np.ndarray, " n"],
) -> Float32[np.ndarray, "m D"]:
    """From the means of their groups, in size as if these were known; groups of one have none."""
    sizes = np.bincount(groups)[groups].astype(np.float32)
    more = sizes > 1
    factors = np.sqrt(sizes[more] / (sizes[more] - 1))
    return np.asarray((vectors - means[groups])[more] * factors[:, None], np.float32)


def _mixed(
    real: Float32[np.ndarray, "m D"], numbers: Int64[np.ndarray, " n"], kind: int
) -> Float32[np.ndarray, "n D"]:
    """The mixture with each number: always the same for the same number and kind."""
    shares = np.zeros((len(numbers), len(real)), np.float32)
    rows = np.arange(len(numbers))
    for place in range(MIXED):
        chosen = _hashed(numbers, kind * 100 + 2 * place) % np.uint64(len(real))
        sizes = _normal(numbers, kind * 100 + 2 * place + 1) / np.float32(MIXED**0.5)
        shares[rows, chosen.astype(np.int64)] += sizes
    return np.asarray(shares @ real)


def _hashed(numbers: Int64[np.ndarray, " n"], salt: int) -> UInt64[np.ndarray, " n"]:
    """SplitMix64."""
    mixed = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed += np.uint64(salt * 0xD1B54A32D192ED03 % (1 << 64))
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)


def _normal(numbers: Int64[np.ndarray, " n"], salt: int) -> Float32[np.ndarray, " n"]:
    first, second = (
        (_hashed(numbers, place).astype(np.float64) + 0.5) / 2**53 for place in (salt, salt + 50)
    )
    return np.asarray(np.sqrt(-2 * np.log(first)) * np.cos(2 * np.pi * second), np.float32)


def likeness(vectors: Float32[np.ndarray, "n D"]) -> str:
    """Mean similarity to the neighbor of some ranks, and the number of dimensions seen nearby."""
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -np.inf)
    similar = -np.sort(-similar, axis=1)
    length = float(vectors[0] @ vectors[0])
    ranks = ", ".join(f"{rank}: {similar[:, rank - 1].mean() / length:.3f}" for rank in (1, 5, 20))
    away = np.sqrt(np.maximum(2 - 2 * similar[:, :21] / length, 1e-9))
    local = -1 / np.log(away[:, :20] / away[:, 20:] + 1e-9).mean(axis=1)
    return f"similarity to neighbor {ranks}; local dimensions {np.median(local):.1f}"
