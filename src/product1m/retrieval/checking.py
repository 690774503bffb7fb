"""Reorder the answers of boxes: by shared points, and by their similarity to the best answers.

The first answers are checked by the points that their photos share with the box, and by the colors
where these points lie. Then the similarity of each answer to the best two is added to its score: a
product has several photos, and some of them resemble another one more than the box (ours: weighted
query expansion without a second search; Radenović et al., TPAMI 2018). Last, an answer loses what
other boxes of its photo claim.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64

from product1m.errors import RetrievalError
from product1m.retrieval.embedding import BlockLayout
from product1m.retrieval.index import GalleryIndex
from product1m.retrieval.shared_points import (
    COLORS_WEIGHT,
    PATTERN_WEIGHT,
    POINTS_WEIGHT,
    CountShared,
    strength,
)

NEIGHBORS_WEIGHT = "neighbors"
"""Key in the weights of a ranking: the factor of an answer's mean cosine with the best answers."""
CLAIMS_WEIGHT = "claims"
"""Key in the weights of a ranking: how much score an answer loses if it matches other boxes."""
CHECKS = (POINTS_WEIGHT, COLORS_WEIGHT, PATTERN_WEIGHT, NEIGHBORS_WEIGHT, CLAIMS_WEIGHT)
"""Keys in the weights of a ranking that are not blocks, in the order of the checks. Colors and
their pattern count only if points have a weight."""
NUM_NEIGHBORS = 2
"""Number of best answers; a third one is too often another product (ours)."""
CLAIM_RANGE = 0.1
"""Lead in mean cosine at which another box's claim to an answer counts e times as much (ours)."""
NEIGHBOR_POWER = 3
"""Power of a best answer's score that weights it (Radenović et al., TPAMI 2018)."""


@dataclass(frozen=True)
class Nearest:
    """The gallery items that some boxes rank first."""

    scores: Float32[np.ndarray, "I N"]
    """Weighted sums of cosines; after checks, with what they add."""
    positions: Int64[np.ndarray, "I N"]
    """Gallery rows; -1 in unused places."""
    strengths: Float64[np.ndarray, "I N"] | None = None
    """What points say about each answer, see `shared_points.strength`; None if not checked."""
    agreements: Float64[np.ndarray, "I N"] | None = None
    """How well colors agree, see `color_pattern.pattern_agreement`; None if not checked."""

    @property
    def checks(self) -> Float64[np.ndarray, "2 I N"]:
        """Strengths and agreements; 0 where nothing was checked."""
        nothing, values = np.zeros(self.scores.shape), (self.strengths, self.agreements)
        return np.stack([nothing if own is None else own for own in values])

    def first(self, depth: int) -> "Nearest":
        """Only the first items of each box."""
        return self._select(np.s_[:, :depth])

    def boxes(self) -> Iterator["Nearest"]:
        """One for each box."""
        for row in range(len(self.scores)):
            yield self._select(np.s_[row : row + 1])

    def ordered(self) -> "Nearest":
        """Sorted by score, best first; equal scores keep their order."""
        order = np.argsort(-self.scores, axis=1, kind="stable")
        return self._select((np.arange(len(order))[:, None], order))

    def _select(self, places: Any) -> "Nearest":
        checks = (self.strengths, self.agreements)
        chosen = [None if values is None else values[places] for values in checks]
        return Nearest(self.scores[places], self.positions[places], *chosen)


def block_weights(weights: Mapping[str, float]) -> dict[str, float]:
    """The weights of the blocks in the weights of a ranking."""
    return {name: weight for name, weight in weights.items() if name not in CHECKS}


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
    strengths, agreements = np.zeros(scores.shape), np.zeros(scores.shape)
    unit, colors = sum(block_weights(weights).values()), weights.get(COLORS_WEIGHT, 0.0)
    pattern_weight = weights.get(PATTERN_WEIGHT, 0.0)
    for place, row in enumerate(positions[:, first]):
        shared = count(place, row)
        strengths[place, first] = strength(shared, colors)
        agreements[place, first] = shared[:, 2]
        added = weight * strengths[place, first] + pattern_weight * agreements[place, first]
        scores[place, first] += (unit * added).astype(np.float32)
    return Nearest(scores, positions, strengths, agreements).ordered()


def compare_with_best(
    nearest: Nearest, weights: Mapping[str, float], gallery: GalleryIndex, layout: BlockLayout
) -> Nearest:
    """Add to each answer's score its similarity to the box's best answers, and sort again.

    Args:
        nearest: best first.
        weights: of the ranking.
        gallery: where the answers' vectors are.
        layout: of these vectors.
    """
    weight, blocks = weights.get(NEIGHBORS_WEIGHT, 0.0), block_weights(weights)
    if not weight:
        return nearest
    scale, scores = layout.scale(blocks), nearest.scores.copy()
    for own, row in zip(scores, nearest.positions, strict=True):
        items = gallery.vectors(gallery.originals(row[row >= 0]))
        best = np.maximum(own[: min(NUM_NEIGHBORS, len(items))], 0).astype(np.float64)
        shares = best**NEIGHBOR_POWER / max((best**NEIGHBOR_POWER).sum(), 1e-12)
        mixed = shares.astype(np.float32) @ items[: len(best)]
        # BLAS would give equal rows different results, depending on their position.
        own[: len(items)] += np.float32(weight) * np.einsum("nd,d->n", items, mixed * scale)
    return replace(nearest, scores=scores).ordered()


def share_answers(
    nearest: Nearest, weights: Mapping[str, float], starts: Int64[np.ndarray, " P1"]
) -> Nearest:
    """Take from each answer what other boxes of its photo claim, and sort again.

    Args:
        nearest: best first.
        weights: of the ranking.
        starts: row where each photo's boxes begin, and the number of rows at the end.
    """
    if not weights.get(CLAIMS_WEIGHT, 0.0):
        return nearest
    rows = list(nearest.boxes())
    scores = [
        without_claims(rows[row], [*rows[first:row], *rows[row + 1 : last]], weights)
        for first, last in itertools.pairwise(starts.tolist())
        for row in range(first, last)
    ]
    return replace(nearest, scores=np.concatenate(scores)).ordered()


def without_claims(
    own: Nearest, others: Sequence[Nearest], weights: Mapping[str, float]
) -> Float32[np.ndarray, "1 N"]:
    """The scores of a box's answers without what other boxes of its photo claim.

    A box's share of an answer is a softmax over the boxes, and an answer loses the logarithm of the
    share (ours). A product that matches two boxes equally well loses as much as similar products
    do, so a photo may show a product twice.
    """
    positions = own.positions[0]
    unit = CLAIM_RANGE * sum(block_weights(weights).values())
    shares = np.zeros(len(positions))
    for other in others:
        order = np.argsort(other.positions[0], kind="stable")
        known, claims = other.positions[0][order], other.scores[0][order].astype(np.float64)
        places = np.minimum(np.searchsorted(known, positions), len(known) - 1)
        leads = (claims[places] - own.scores[0]) / unit
        both = (known[places] == positions) & (positions >= 0)
        shares = np.where(both, np.logaddexp(shares, leads), shares)
    lost = weights[CLAIMS_WEIGHT] * unit * shares
    return np.asarray(own.scores - lost.astype(np.float32))
