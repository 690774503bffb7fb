"""Evidence on whether an answer is right, for its match score (ours)."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64

from product1m.retrieval.embedding import BlockLayout
from product1m.retrieval.index import GalleryIndex
from product1m.retrieval.match_score import AnswerEvidence

OF_POINTS = ("points", "points_lead", "pattern", "pattern_lead")
"""Evidence that needs points."""
RIVALS = 20
"""An answer is compared with this many first answers of its box (ours)."""


def describe_answers(
    query: Float32[np.ndarray, " D"],
    detector_score: float,
    positions: Int64[np.ndarray, " n"],
    strengths: Float64[np.ndarray, " n"],
    agreements: Float64[np.ndarray, " n"],
    gallery: GalleryIndex,
    layout: BlockLayout,
    weights: Mapping[str, float],
) -> AnswerEvidence:
    """Evidence for each answer of a box.

    `query` is the box's unweighted vector, `positions` are the answers' gallery rows, best first,
    `strengths` what shared points say about them, `agreements` how well colors agree, `weights`
    those of blocks.

    Returns `similarity` (weighted mean of cosines), `lead` (less that of the most similar answer
    with another product), `distinct` (less the similarity of the answer's item with the most
    similar such item: small if the product is missing), `points` (strength of shared points) and
    `points_lead`, `pattern` (agreement of colors) and `pattern_lead`, `first` (1 for the first
    answer, else 0), `detector_score`, cosines of blocks.
    """
    items = gallery.vectors(positions)
    products = gallery.products[positions]
    weighted, total = items * layout.scale(weights), sum(weights.values())
    similarity = (weighted @ query[: layout.dim]).astype(np.float64) / total
    other = products[:, None] != products[None, :RIVALS]
    among = weighted @ items[:RIVALS].T / total
    return {
        "similarity": similarity,
        "lead": similarity - _best_rival(similarity, other),
        "distinct": similarity - _largest(among, other),
        "points": strengths,
        "points_lead": strengths - _best_rival(strengths, other),
        "pattern": agreements,
        "pattern_lead": agreements - _best_rival(agreements, other),
        "first": (np.arange(len(positions)) == 0).astype(np.float64),
        "detector_score": np.full(len(positions), detector_score, np.float64),
        **_cosines(items, query, layout, weights),
    }


def _cosines(
    items: Float32[np.ndarray, "n D"],
    query: Float32[np.ndarray, " D"],
    layout: BlockLayout,
    weights: Mapping[str, float],
) -> dict[str, Float32[np.ndarray, " n"]]:
    """The cosine of each block that has a weight."""
    return {
        f"cosine_{block}": items[:, layout.columns(block)] @ query[layout.columns(block)]
        for block, weight in weights.items()
        if weight
    }


def _best_rival(
    values: Float64[np.ndarray, " n"], counted: Bool[np.ndarray, "n R"]
) -> Float[np.ndarray, " n"]:
    return _largest(np.broadcast_to(values[:RIVALS], counted.shape), counted)


def _largest(
    values: Float[np.ndarray, "n R"], counted: Bool[np.ndarray, "n R"]
) -> Float[np.ndarray, " n"]:
    """Each row's largest counted value; its smallest value if none is counted."""
    largest = np.where(counted, values, -np.inf).max(axis=1)
    return np.asarray(np.where(counted.any(axis=1), largest, values.min(axis=1)))
