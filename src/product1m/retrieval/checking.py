"""Reorder the first answers of boxes by the points that they share with their boxes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from product1m.errors import RetrievalError
from product1m.retrieval.shared_points import (
    POINTS_WEIGHT,
    CountShared,
    block_weights,
    strength,
)


@dataclass(frozen=True)
class Nearest:
    """The gallery items that some boxes rank first."""

    scores: Float32[np.ndarray, "I N"]
    """Weighted sums of cosines; for checked answers, shared points are added."""
    positions: Int64[np.ndarray, "I N"]
    """Gallery rows; -1 in unused places."""

    def first(self, depth: int) -> "Nearest":
        """Only the first items of each box."""
        return Nearest(self.scores[:, :depth], self.positions[:, :depth])

    def boxes(self) -> Iterator["Nearest"]:
        """One for each box."""
        for row in range(len(self.scores)):
            own = slice(row, row + 1)
            yield Nearest(self.scores[own], self.positions[own])


def check_answers(
    nearest: Nearest, weights: Mapping[str, float], count: CountShared | None, num_checked: int
) -> Nearest:
    """Add shared points to the scores of each box's first answers, and reorder these.

    Args:
        nearest: the nearest items, ordered only by cosines.
        weights: weights of the ranking.
        count: counts shared points.
        num_checked: number of a box's first answers that are checked.

    Raises RetrievalError if shared points have a weight but cannot be counted.
    """
    weight = weights.get(POINTS_WEIGHT, 0.0)
    if not weight:
        return nearest
    if count is None:
        raise RetrievalError(
            "shared points have a weight, but the photos or the gallery have no points; run "
            "feature_extraction and indexing again with feature_extraction.gallery_points"
        )
    scores, positions, first = nearest.scores.copy(), nearest.positions, slice(num_checked)
    unit = weight * sum(block_weights(weights).values())
    for place, row in enumerate(positions[:, first]):
        scores[place, first] += (unit * strength(count(place, row))).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")
    ordered = (np.take_along_axis(of, order, axis=1) for of in (scores, positions))
    return Nearest(*ordered)
