"""Block weights chosen on the dev queries: strict mAP@10 over a grid, the simplest of equals."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from product1m.progress import track
from product1m.retrieval.embedding import BlockLayout
from product1m.retrieval.index import GalleryIndex
from product1m.retrieval.merging import round_robin
from product1m.retrieval.metrics import GroundTruth, mean_scores, score_queries
from product1m.retrieval.search import QueryVectors

CHOICE_DEPTH = 10
"""The weights are chosen for the metrics' first depth (ours)."""
POOL = 200
"""Nearest items each block names as candidates of a view: bounds memory (ours)."""
_VIEW_CHUNK = 8


@dataclass(frozen=True)
class Fusion:
    """How much each block of a query counts."""

    weights: dict[str, float]
    """Factor of each block of a query's vector, the largest 1; blocks without weight are absent."""
    shares: dict[str, float]
    """The same in units of each block's spread: the point of the grid that was chosen."""
    dev_map_at_10: float
    """Strict mAP@10 on the dev queries."""


@dataclass(frozen=True)
class Candidates:
    """Every view's scores with the gallery items it could list, block by block."""

    blocks: tuple[str, ...]
    starts: Int64[np.ndarray, " Q1"]
    positions: Int64[np.ndarray, "I C"]
    """Rows of the gallery, ascending; -1 where a view has fewer candidates."""
    scores: Float32[np.ndarray, "I C K"]
    """Cosines of each block, divided by the block's spread."""
    spread: dict[str, float]
    """Standard deviation of a block's cosines between these views and the gallery."""


def candidates(
    queries: QueryVectors, gallery: GalleryIndex, layout: BlockLayout, whole_photo: bool
) -> Candidates:
    """The nearest of every block alone and of all blocks together, scored by each block."""
    vectors, starts = queries.views(whole_photo)
    blocks = tuple(layout.widths)
    searches = [{block: 1.0} for block in blocks] + [dict.fromkeys(blocks, 1.0)]
    found = [gallery.search(vectors * layout.scale(weights), POOL)[1] for weights in searches]
    positions = _distinct(np.concatenate(found, axis=1))
    scores = np.zeros((*positions.shape, len(blocks)), np.float32)
    for start in track(range(0, len(vectors), _VIEW_CHUNK), "scoring candidates"):
        rows = slice(start, start + _VIEW_CHUNK)
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
    return Candidates(blocks, starts, positions, scores, spread)


def choose_weights(
    pool: Candidates,
    queries: QueryVectors,
    gallery: GalleryIndex,
    truth: GroundTruth,
    values: Sequence[float],
    blocks: Sequence[str],
) -> Fusion:
    """The grid point with the best strict mAP@10 of the merged rankings.

    Points with fewer blocks come first, then those nearer to equal weights; a later one must be
    better, not equal.
    """
    answerable = [
        row
        for row, query in enumerate(queries.query_ids)
        if any(label not in truth.missing_labels for label in truth.query_labels[query])
    ]
    chosen, best = np.zeros(len(pool.blocks)), -1.0
    grid = weight_grid(values, [block in blocks for block in pool.blocks])
    for weights in track(grid, "choosing block weights"):
        ranked = _merged(pool, weights, answerable)
        rankings = {
            queries.query_ids[row]: [gallery.ids[p] for p in ranking]
            for row, ranking in zip(answerable, ranked, strict=True)
        }
        scores = score_queries(rankings, truth, "strict", (CHOICE_DEPTH,))
        found = mean_scores(scores)[str(CHOICE_DEPTH)]["mAP"]
        if found > best + 1e-9:
            chosen, best = weights, found
    return _fusion(pool, chosen, best)


def weight_grid(values: Sequence[float], free: Sequence[bool]) -> list[Float32[np.ndarray, " K"]]:
    """Every combination of `values` for the free blocks that ranks differently, simple first."""
    points = {
        tuple(round(weight / max(point), 6) for weight in point)
        for point in itertools.product(*(values if is_free else (0.0,) for is_free in free))
        if max(point) > 0
    }
    ordered = sorted(points, key=lambda p: (sum(w > 0 for w in p), -sum(p), p))
    return [np.array(point, np.float32) for point in ordered]


def _merged(
    pool: Candidates, weights: Float32[np.ndarray, " K"], queries: Sequence[int]
) -> list[list[int]]:
    """The first `CHOICE_DEPTH` of each query's merged ranking."""
    scores = np.where(pool.positions >= 0, pool.scores @ weights, -np.inf)
    depth = min(CHOICE_DEPTH, scores.shape[1])
    # No more than its first N items of any view can enter the first N of a merged list.
    top = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
    top_scores = np.take_along_axis(scores, top, axis=1)
    top = np.take_along_axis(top, np.argsort(-top_scores, axis=1, kind="stable"), axis=1)
    ranked = np.take_along_axis(pool.positions, top, axis=1).tolist()
    return [
        round_robin(
            [[p for p in row if p >= 0] for row in ranked[pool.starts[q] : pool.starts[q + 1]]],
            CHOICE_DEPTH,
        )
        for q in queries
    ]


def _fusion(pool: Candidates, chosen: Float32[np.ndarray, " K"], dev_map: float) -> Fusion:
    shares = {b: float(w) for b, w in zip(pool.blocks, chosen, strict=True) if w > 0}
    weights = {block: share / pool.spread[block] for block, share in shares.items()}
    largest = max(weights.values())
    return Fusion(
        {block: round(weight / largest, 6) for block, weight in weights.items()}, shares, dev_map
    )


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
