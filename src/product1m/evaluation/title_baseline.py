"""A baseline that uses only titles: answer with the labels of dev queries with similar titles.

Sellers sell the same set under similar titles, so most test queries have labels that a dev query
has. This ranking uses the labels of the dev queries, which no other ranking does, but neither a
photo nor a model.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from product1m.evaluation.bounds import items_by_label
from product1m.evaluation.metrics import GroundTruth

NUM_TITLES = 5
"""Number of similar titles whose labels are used (ours)."""
_CHUNK = 256


@dataclass(frozen=True)
class Titles:
    """Titles of queries as vectors of unit length: the block `text`."""

    query_ids: Sequence[str]
    vectors: Float32[np.ndarray, "n K"]


def nearest_title_rankings(
    asked: Titles, dev: Titles, truth: GroundTruth, depth: int
) -> dict[str, list[str]]:
    """Gallery items with the labels of the most similar dev titles, best label first.

    Each title votes for its labels with its similarity. Items of a label keep the gallery's order.
    A dev query does not use its own labels.
    """
    items = items_by_label(truth.gallery_label)
    labels = {query: set(truth.query_labels[query]) for query in dev.query_ids}
    rankings = {}
    for start in range(0, len(asked.query_ids), _CHUNK):
        chunk = asked.vectors[start : start + _CHUNK] @ dev.vectors.T
        for query, row in zip(asked.query_ids[start : start + _CHUNK], chunk, strict=True):
            order = [dev.query_ids[at] for at in np.argsort(-row, kind="stable").tolist()]
            nearest = [other for other in order if other != query][:NUM_TITLES]
            votes = _votes(nearest, dict(zip(dev.query_ids, row, strict=True)), labels)
            ranked = sorted(votes, key=lambda label: (-votes[label], label))
            listed = [item for label in ranked for item in items.get(label, ())]
            rankings[query] = listed[:depth]
    return rankings


def _votes(
    nearest: Sequence[str], similarity: Mapping[str, float], labels: Mapping[str, set[str]]
) -> dict[str, float]:
    votes: defaultdict[str, float] = defaultdict(float)
    for title in nearest:
        for label in labels[title]:
            votes[label] += float(similarity[title])
    return dict(votes)
