"""Evidence on whether an answer is right, for its match score (ours)."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64

from product1m.retrieval.embedding import BlockLayout
from product1m.retrieval.index import GalleryIndex
from product1m.retrieval.match_score import Evidence

RIVALS = 20
"""An answer is compared with this many first answers of its box (ours)."""


def describe_answers(
    query: Float32[np.ndarray, " D"],
    detector_score: float,
    positions: Int64[np.ndarray, " n"],
    similarities: Float32[np.ndarray, " n"],
    gallery: GalleryIndex,
    layout: BlockLayout,
    weights: Mapping[str, float],
) -> Evidence:
    """Evidence for each answer of a box.

    `query` is the box's unweighted vector, `positions` are the answers' gallery rows, best first,
    `similarities` their weighted sums of cosines with shared points, `weights` those of blocks.

    Returns:
        `similarity` (weighted mean of cosines, with shared points), `lead` (less that of the best
        answer with another product), `distinct` (less the similarity of the answer's item with the
        most similar such item: small if the product is missing), `first` (1 for the first answer,
        else 0), `detector_score`, each weighted block's cosine.
    """
    items = gallery.vectors(positions)
    products = gallery.products[positions]
    total = sum(weights.values())
    similarity = similarities.astype(np.float64) / total
    other = products[:, None] != products[None, :RIVALS]
    among = (items * layout.scale(weights)) @ items[:RIVALS].T / total
    rivals = np.broadcast_to(similarity[:RIVALS], other.shape)
    cosines = {
        f"cosine_{block}": items[:, layout.columns(block)] @ query[layout.columns(block)]
        for block, weight in weights.items()
        if weight
    }
    return {
        "similarity": similarity,
        "lead": similarity - _largest(rivals, other),
        "distinct": similarity - _largest(among, other),
        "first": (np.arange(len(positions)) == 0).astype(np.float64),
        "detector_score": np.full(len(positions), detector_score, np.float64),
        **cosines,
    }


def _largest(
    values: Float[np.ndarray, "n R"], counted: Bool[np.ndarray, "n R"]
) -> Float[np.ndarray, " n"]:
    """Each row's largest counted value; its smallest value if none is counted."""
    largest = np.where(counted, values, -np.inf).max(axis=1)
    return np.asarray(np.where(counted.any(axis=1), largest, values.min(axis=1)))
