"""Measure an index's recall with real queries.

Indexing measures it with the gallery's own, unweighted vectors. This measures it with the boxes of
queries and the shipped weights, which visit other cells of an index and use fewer blocks.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32

from product1m.retrieval.building import RECALL_DEPTH
from product1m.retrieval.index import ExactSearch, recall_at_depth
from product1m.retrieval.search import Searcher

SEARCHED_RECALL = f"index/recall@{RECALL_DEPTH}"
MAX_BOXES = 1000
"""Number of evenly spaced boxes that are searched exactly (ours)."""
_CHUNK = 8192


def searched_recall(
    searcher: Searcher, box_vectors: Float32[np.ndarray, "I D"], weights: Mapping[str, float]
) -> float:
    """Share of the nearest stored vectors that the index finds; its codes count as exact."""
    gallery, layout = searcher.gallery, searcher.layout
    chosen = np.unique(np.linspace(0, len(box_vectors) - 1, MAX_BOXES, dtype=int))
    weights_by_block = {name: weight for name, weight in weights.items() if name in layout.widths}
    asked = box_vectors[chosen, : layout.dim] * layout.scale(weights_by_block)
    exact = ExactSearch(asked, RECALL_DEPTH)
    for start in range(0, len(gallery), _CHUNK):
        exact.add(gallery.vectors(np.arange(start, min(start + _CHUNK, len(gallery)))))
    truth = exact.positions()
    _, nearest = gallery.search(asked, truth.shape[1])
    return recall_at_depth(nearest, truth)
