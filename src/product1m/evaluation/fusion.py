"""Choose block weights on the dev queries: strict mAP@10 over a grid, averaged over resamples."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32, Int64

from product1m.config import EvaluationConfig
from product1m.data.texts import Texts
from product1m.errors import RetrievalError
from product1m.evaluation.metrics import GroundTruth, score_queries
from product1m.evaluation.statistics import MAIN_DEPTH
from product1m.retrieval.embedding import BlockLayout
from product1m.retrieval.index import GalleryIndex
from product1m.retrieval.merging import MergeRule, merge
from product1m.retrieval.query_vectors import QueryVectors
from product1m.telemetry.progress import track

POOL = 200
"""Nearest items per block that become candidates of a query vector; limits memory (ours)."""
MAX_POINTS = 3**6
"""Largest number of grid points, three weights for each of six blocks; with more blocks the grid
has fewer weights per block (ours)."""
SURFACE_STEPS = 9
"""Number of weights per side of the map of two blocks' weights (ours)."""
_CHUNK = 8
_SIMPLER = 1e-9
"""Added per position from the grid's end, so that of equal points the first, simplest one wins."""


@dataclass(frozen=True)
class FusionSettings:
    """How block weights are chosen; `evaluation` in the configuration explains each value."""

    blocks: tuple[str, ...]
    """Blocks that may have a weight in the shipped ranking."""
    tried_weights: tuple[float, ...]
    num_resamples: int
    seed: int
    points_weights: tuple[float, ...] = ()
    """Weights of shared points that are tried."""
    colors_weights: tuple[float, ...] = ()
    """Weights of the colors of shared points that are tried."""
    neighbors_weights: tuple[float, ...] = ()
    """Weights of the likeness to the best answers that are tried."""
    pattern_weights: tuple[float, ...] = ()
    """Weights of the agreement of color patterns that are tried."""
    claims_weight: float = 0.0
    """How much score an answer loses if it matches other boxes of the photo."""

    @classmethod
    def from_config(cls, config: EvaluationConfig) -> "FusionSettings":
        """The settings in a configuration section."""
        return cls(
            config.fused_blocks,
            config.fusion_weights,
            config.num_bootstrap,
            config.seed,
            config.points_weights,
            config.colors_weights,
            config.neighbors_weights,
            config.pattern_weights,
            config.claims_weight,
        )


@dataclass(frozen=True)
class Fusion:
    """How much each block of a query counts in a ranking."""

    weights: dict[str, float]
    """Factor of each block of a query's vector, the largest 1. Also the factors of checks, see
    `retrieval/checking.py`."""
    shares: dict[str, float]
    """The same factors in units of each block's spread, as in the grid."""
    dev_map_at_10: float
    """Strict mAP@10 on the dev queries."""
    trials: pd.DataFrame
    """The whole grid: one column per block, and the dev strict mAP@10 as `dev_map`."""
    check_trials: tuple[Mapping[str, float], ...] = ()
    """Tried weights of checks, each with its dev strict mAP@10 as `dev_map`."""

    def as_dict(self) -> dict[str, Any]:
        """The content of `fusion.json`."""
        return {
            "weights": self.weights,
            "shares": self.shares,
            "dev_map_at_10": self.dev_map_at_10,
            "check_trials": self.check_trials,
        }


@dataclass(frozen=True)
class Surface:
    """The dev score as a function of two blocks' weights; the other weights are as chosen."""

    x_block: str
    y_block: str
    dev_map: Float[np.ndarray, "S S"]
    """Strict mAP@10, one row per weight of `y_block`; NaN if no block has a weight."""
    values: Float[np.ndarray, " S"]
    """The weights on both axes, in units of the blocks' spread."""


@dataclass(frozen=True)
class Trials:
    """Strict AP@10 of every dev query at every point of a grid of block weights."""

    grid: Float32[np.ndarray, "W K"]
    ap: Float[np.ndarray, "W Q"]

    def without(self, closed: Sequence[bool]) -> "Trials":
        """Only the points where the closed blocks have weight 0."""
        rows = ~(self.grid[:, np.array(closed, bool)] > 0).any(axis=1)
        return Trials(self.grid[rows], self.ap[rows])


@dataclass(frozen=True)
class Candidates:
    """The scores of every query vector with its candidate items, block by block."""

    blocks: tuple[str, ...]
    starts: Int64[np.ndarray, " Q1"]
    positions: Int64[np.ndarray, "I C"]
    """Rows of the gallery, ascending; -1 if a vector has fewer candidates."""
    scores: Float32[np.ndarray, "I C K"]
    """Cosines of each block, divided by the block's spread."""
    spread: dict[str, float]
    """Standard deviation of a block's cosines between these vectors and the gallery."""


@dataclass(frozen=True)
class DevQueries:
    """The dev queries that have an answer in the gallery, ready to be scored many times."""

    rows: list[int]
    """Their positions among the queries of the candidates."""
    ids: list[str]
    gallery_ids: Texts
    truth: GroundTruth
    merge: MergeRule

    @classmethod
    def answerable(
        cls,
        queries: QueryVectors,
        gallery_ids: Texts,
        truth: GroundTruth,
        merge: MergeRule,
    ) -> "DevQueries":
        """Leave out queries without a label in the gallery, as `strict` does."""
        rows = [
            row
            for row, query in enumerate(queries.query_ids)
            if not truth.missing_labels.keys() >= set(truth.query_labels[query])
        ]
        if not rows:
            raise RetrievalError(
                f"none of the {len(queries.query_ids)} dev queries has a label that the gallery "
                "has, so no block weights can be chosen; the lists belong to different data sets"
            )
        return cls(rows, [queries.query_ids[row] for row in rows], gallery_ids, truth, merge)

    def ap(self, pool: Candidates, shares: Float32[np.ndarray, " K"]) -> Float[np.ndarray, " Q"]:
        """Strict AP@10 of each query with these block weights."""
        rankings = {
            query: self.gallery_ids.at(ranking)
            for query, ranking in zip(
                self.ids, _merged(pool, shares, self.rows, self.merge), strict=True
            )
        }
        scores = score_queries(rankings, self.truth, "strict", (MAIN_DEPTH,))
        return scores["ap"].to_numpy()


def candidates(
    queries: QueryVectors,
    gallery: GalleryIndex,
    layout: BlockLayout,
    blocks: Sequence[str],
    whole_photo: bool,
) -> Candidates:
    """The nearest items by each block and by all blocks together, with each block's score."""
    vectors, starts = queries.searched(whole_photo)
    searches = [{block: 1.0} for block in blocks] + [dict.fromkeys(blocks, 1.0)]
    stored = vectors[:, : layout.dim]
    nearest = [gallery.search(stored * layout.scale(weights), POOL)[1] for weights in searches]
    positions = _distinct(np.concatenate(nearest, axis=1))
    scores = np.zeros((*positions.shape, len(blocks)), np.float32)
    for start in track(range(0, len(vectors), _CHUNK), "scoring candidates"):
        rows = slice(start, start + _CHUNK)
        pool, places = np.unique(np.maximum(positions[rows], 0), return_inverse=True)
        items = gallery.vectors(pool)
        for number, block in enumerate(blocks):
            columns = layout.columns(block)
            cosines = vectors[rows, columns] @ items[:, columns].T
            places = places.reshape(positions[rows].shape)
            scores[rows, :, number] = np.take_along_axis(cosines, places, axis=1)
    valid = positions >= 0
    spread = {block: float(scores[valid][:, n].std()) or 1.0 for n, block in enumerate(blocks)}
    scores /= np.array(list(spread.values()), np.float32)
    return Candidates(tuple(blocks), starts, positions, scores, spread)


def try_weights(pool: Candidates, dev: DevQueries, tried_weights: Sequence[float]) -> Trials:
    """Score the dev queries at every point of the grid over all blocks."""
    grid = weight_grid(_thinned(tried_weights, len(pool.blocks)), [True] * len(pool.blocks))
    ap = np.stack([dev.ap(pool, weights) for weights in track(grid, "choosing block weights")])
    return Trials(grid, ap)


def choose_weights(
    pool: Candidates,
    dev: DevQueries,
    blocks: Sequence[str],
    settings: FusionSettings,
    trials: Trials | None = None,
) -> Fusion:
    """The best point of the grid by strict mAP@10 of the merged rankings, averaged over resamples.

    A few dozen queries decide between hundreds of points, so which point is best depends much on
    chance. Therefore the dev queries are resampled with replacement, each resample elects its best
    point (the simplest of equals), and the weights are the mean of the elected points (ours).

    Args:
        pool: the candidates and their scores.
        dev: the queries that decide.
        blocks: the blocks that may have a weight.
        settings: grid, resamples and seed.
        trials: result of `try_weights` for this pool, if known.
    """
    trials = trials or try_weights(pool, dev, settings.tried_weights)
    trials = trials.without([block not in blocks for block in pool.blocks])
    grid, ap = trials.grid, trials.ap
    elected = elect(ap, settings)
    shares = grid[elected].mean(axis=0)
    shares /= shares.max()
    weights = shares / np.array(list(pool.spread.values()))
    tried = pd.DataFrame(grid, columns=list(pool.blocks)).assign(dev_map=ap.mean(axis=1))
    return Fusion(
        _by_block(pool.blocks, weights / weights.max()),
        _by_block(pool.blocks, shares),
        float(dev.ap(pool, shares).mean()),
        tried,
    )


def elect(ap: Float[np.ndarray, "W Q"], settings: FusionSettings) -> Int64[np.ndarray, " S"]:
    """The best row for every resample of the queries; among equal rows the first, simplest one."""
    generator = np.random.default_rng(settings.seed)
    num_queries = ap.shape[1]
    drawn = generator.multinomial(
        num_queries, [1 / num_queries] * num_queries, size=settings.num_resamples
    )
    simpler = _SIMPLER * np.arange(len(ap), 0, -1)
    return np.asarray((drawn @ ap.T + simpler).argmax(axis=1))


def weight_surface(pool: Candidates, dev: DevQueries, fusion: Fusion) -> Surface | None:
    """The dev score over the weights of the two blocks that count most; None for one block."""
    shares = np.array([fusion.shares[block] for block in pool.blocks], np.float32)
    x, y = sorted(np.argsort(-shares, kind="stable")[:2].tolist()) if len(shares) > 1 else (0, 0)
    if x == y or not fusion.trials[[pool.blocks[x], pool.blocks[y]]].to_numpy().any(axis=0).all():
        return None
    values = np.linspace(0, 1, SURFACE_STEPS)
    dev_map = np.full((SURFACE_STEPS, SURFACE_STEPS), np.nan)
    for row, column in track(list(np.ndindex(dev_map.shape)), "mapping two weights"):
        point = shares.copy()
        point[x], point[y] = values[column], values[row]
        if point.any():
            dev_map[row, column] = dev.ap(pool, point).mean()
    return Surface(pool.blocks[x], pool.blocks[y], dev_map, values)


def _thinned(values: Sequence[float], num_blocks: int) -> Sequence[float]:
    """Drop every other weight, repeatedly, until the grid has at most `MAX_POINTS` points."""
    while len(values) > 2 and len(values) ** num_blocks > MAX_POINTS:
        values = sorted({*sorted(values)[::2], max(values)})
    return values


def weight_grid(values: Sequence[float], free: Sequence[bool]) -> Float32[np.ndarray, "W K"]:
    """Every combination of `values` for the free blocks that ranks differently, simplest first.

    Points with fewer blocks come first, then those nearer to equal weights.
    """
    points = {
        tuple(round(weight / max(point), 6) for weight in point)
        for point in itertools.product(*(values if is_free else (0.0,) for is_free in free))
        if max(point) > 0
    }
    ordered = sorted(points, key=lambda p: (sum(w > 0 for w in p), -sum(p), p))
    return np.array(ordered, np.float32)


def _merged(
    pool: Candidates, weights: Float32[np.ndarray, " K"], queries: Sequence[int], rule: MergeRule
) -> list[list[int]]:
    """The first `MAIN_DEPTH` of each query's merged ranking."""
    scores = np.where(pool.positions >= 0, pool.scores @ weights, -np.inf)
    depth = min(MAIN_DEPTH, scores.shape[1])
    # Only the first N items of each vector can be among the first N of the merged ranking.
    top = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
    top_scores = np.take_along_axis(scores, top, axis=1)
    order = np.argsort(-top_scores, axis=1, kind="stable")
    top_scores = np.take_along_axis(top_scores, order, axis=1)
    positions = np.take_along_axis(pool.positions, np.take_along_axis(top, order, axis=1), axis=1)
    ranked = [
        [(item, score) for item, score in zip(*row, strict=True) if item >= 0]
        for row in zip(positions.tolist(), top_scores.tolist(), strict=True)
    ]
    starts = pool.starts
    return [merge(ranked[starts[q] : starts[q + 1]], MAIN_DEPTH, rule) for q in queries]


def _by_block(blocks: Sequence[str], values: Float32[np.ndarray, " K"]) -> dict[str, float]:
    return {block: round(float(value), 4) for block, value in zip(blocks, values, strict=True)}


def _distinct(positions: Int64[np.ndarray, "I C"]) -> Int64[np.ndarray, "I C"]:
    """Each row's distinct positions in ascending order, padded with -1 at its end."""
    ordered = np.sort(positions, axis=1)
    repeated = np.zeros(ordered.shape, bool)
    repeated[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    ordered[repeated | (ordered < 0)] = np.iinfo(np.int64).max
    ordered.sort(axis=1)
    width = int((ordered != np.iinfo(np.int64).max).sum(axis=1).max(initial=1))
    ordered[ordered == np.iinfo(np.int64).max] = -1
    return ordered[:, :width]
