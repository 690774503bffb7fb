"""Check an answer by the points that its photo shares with a box, in the same arrangement.

Another photo of a pack shows the same printing. Points of both photos are paired by descriptors,
and RANSAC keeps the pairs that agree with one rotation, scale and shift (ours; ratio test: Lowe,
IJCV 2004). Another shade of a product has the same printing in another color, so points count less
if their colors differ, and the colors between them are compared too (ours). All computations are
exact or in a fixed order, so the number of threads changes nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64

from product1m.data.points import Points, PointTable
from product1m.retrieval.color_pattern import pattern_agreement

POINTS_WEIGHT = "points"
"""Key in the weights of a ranking: the factor of `strength`, added to a mean of cosines."""
COLORS_WEIGHT = "colors"
"""Key in the weights of a ranking: how much shared points lose by differences of color."""
PATTERN_WEIGHT = "pattern"
"""Key in the weights of a ranking: the factor of the agreement of colors, see
`color_pattern.pattern_agreement`, added to a mean of cosines."""
COLOR_RANGE = 20.0
"""Mean difference of the colors, |Δa| + |Δb|, at which shared points count 1 / e for a weight of 1
(ours)."""
CHANCE_POINTS = 3
"""Number of points that photos of different products share by chance; they do not count (ours)."""
MAX_RATIO = 0.8
"""Largest ratio of the distances to the best and the second best descriptor (Lowe, IJCV 2004)."""
MAX_DISTANCE = 0.022
"""Largest distance from where RANSAC expects a point, relative to the extent of the item's points
(ours)."""
MAX_SCALE = 5.0
"""With a larger change of scale, a match is not trusted (ours)."""
RANSAC_STEPS = 500
MAX_PREPARED = 512
"""Gallery photos whose points stay prepared for comparison, about 75 MB (ours)."""

CountShared = Callable[[int, Int64[np.ndarray, " n"]], Float64[np.ndarray, "n 3"]]
"""Gives what `Matcher.count` gives for a box and gallery rows; the box is named by its position
among those that search."""


@dataclass(frozen=True)
class SharedPoints:
    """Points of a box and of a gallery item that lie in the same arrangement, pair by pair."""

    box_xy: Float32[np.ndarray, "n 2"]
    """Pixels of the query photo."""
    item_xy: Float32[np.ndarray, "n 2"]
    """Pixels of the gallery photo."""
    item_size_px: tuple[int, int]
    """Width and height of the gallery photo."""

    def __len__(self) -> int:
        return len(self.box_xy)

    def as_rows(self) -> list[list[float]]:
        """For each pair: x and y in pixels of the query photo, and as shares of its photo."""
        shares = self.item_xy / np.array(self.item_size_px, np.float32)
        return [
            [round(x, 1), round(y, 1), round(across, 4), round(down, 4)]
            for (x, y), (across, down) in zip(self.box_xy.tolist(), shares.tolist(), strict=True)
        ]


def strength(shared: Float64[np.ndarray, "n 3"], colors_weight: float) -> Float64[np.ndarray, " n"]:
    """Strength of what `Matcher.count` gives: logarithmic in the number of points."""
    numbers, differences, _ = shared.T
    return np.asarray(np.log1p(numbers * np.exp(-colors_weight * differences / COLOR_RANGE)))


class PreparedItems:
    """The points of gallery items, prepared for comparison; the most recently used are kept."""

    def __init__(self, table: PointTable) -> None:
        self._table = table
        self._item = lru_cache(MAX_PREPARED)(self._prepare)

    def __getitem__(self, row: int) -> "_PreparedPoints":
        return self._item(row)

    def _prepare(self, row: int) -> "_PreparedPoints":
        return _PreparedPoints.from_points(self._table[row])


class Matcher:
    """Compares boxes with gallery items by their points, each pair once."""

    def __init__(self, boxes: Sequence[Points], items: PreparedItems) -> None:
        """`boxes` are the points of the boxes that search."""
        self._boxes = [_PreparedPoints.from_points(box) for box in boxes]
        self._items = items
        self._rows: dict[tuple[int, int], _Rows] = {}

    def count(self, place: int, positions: Int64[np.ndarray, " n"]) -> Float64[np.ndarray, "n 3"]:
        """Numbers of points that a box shares with gallery items, and how their colors differ.

        The first column is the number minus `CHANCE_POINTS`, the second the mean of |Δa| + |Δb|,
        the third the agreement of color patterns, -1 to 1; all are 0 if there are too few points to
        count, and for row -1.
        """
        counts = [self._count(place, row) if row >= 0 else _NO_COUNT for row in positions.tolist()]
        return np.array(counts, np.float64).reshape(-1, 3)

    def shared(self, place: int, row: int) -> SharedPoints:
        """The points that a box shares with a gallery item; none if there are too few to count."""
        own, other = self._compared(place, row)
        item = self._items[row].points
        return SharedPoints(
            self._boxes[place].points.points_xy[own], item.points_xy[other], item.size_px
        )

    def _count(self, place: int, row: int) -> tuple[float, float, float]:
        own, other = self._compared(place, row)
        number = float(max(len(own) - CHANCE_POINTS, 0))
        if not number:
            return _NO_COUNT
        box, item = self._boxes[place].points, self._items[row].points
        agreement = pattern_agreement(box, item, box.points_xy[own], item.points_xy[other])
        if box.colors is None or item.colors is None:
            return number, 0.0, agreement
        apart = box.colors[own].astype(np.int64) - item.colors[other]
        return number, float(np.abs(apart).sum()) / len(own), agreement

    def _compared(self, place: int, row: int) -> "_Rows":
        if (place, row) not in self._rows:
            self._rows[place, row] = _shared(self._boxes[place], self._items[row])
        return self._rows[place, row]


@dataclass(frozen=True)
class _PreparedPoints:
    """Points, prepared to be compared with many others."""

    points: Points
    descriptors: Float32[np.ndarray, "P 128"]
    squares: Float32[np.ndarray, " P"]
    places: Int64[np.ndarray, " P"]
    """See `_places`."""

    @classmethod
    def from_points(cls, points: Points) -> "_PreparedPoints":
        descriptors = points.descriptors.astype(np.float32)
        squares = np.asarray(np.einsum("pd,pd->p", descriptors, descriptors))
        return cls(points, descriptors, squares, _places(points.points_xy))

    def __len__(self) -> int:
        return len(self.points)


_Rows = tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]
"""Rows of a box's points and of an item's that go together."""
_NONE = np.empty(0, np.int64)
_NO_COUNT = (0.0, 0.0, 0.0)


def _shared(box: _PreparedPoints, item: _PreparedPoints) -> _Rows:
    """Rows of the box's points and of the item's that go together, each place of the item once.

    SIFT finds several points at a place with several directions.
    """
    if min(len(box), len(item)) <= CHANCE_POINTS:
        return _NONE, _NONE
    own, other = _pairs(box, item)
    if len(np.unique(item.places[other])) <= CHANCE_POINTS:
        return _NONE, _NONE
    source, target = box.points.points_xy[own], item.points.points_xy[other]
    extent = float(np.ptp(item.points.points_xy, axis=0).max())
    moved, kept = cv2.estimateAffinePartial2D(
        source,
        target,
        method=cv2.RANSAC,
        ransacReprojThreshold=max(MAX_DISTANCE * extent, 1.0),
        maxIters=RANSAC_STEPS,
        refineIters=0,
    )
    if moved is None or not 1 / MAX_SCALE < np.hypot(*moved[:, 0]) < MAX_SCALE:
        return _NONE, _NONE
    rows = np.flatnonzero(kept[:, 0])
    _, first = np.unique(item.places[other[rows]], return_index=True)
    if len(first) <= CHANCE_POINTS:
        return _NONE, _NONE
    return own[rows[first]], other[rows[first]]


def _places(points_xy: Float32[np.ndarray, "P 2"]) -> Int64[np.ndarray, " P"]:
    """A number per point, the same for points at one place; they are ordered by place."""
    moves = (points_xy[1:] != points_xy[:-1]).any(axis=1)
    return np.concatenate([[0], np.cumsum(moves)])


def _pairs(box: _PreparedPoints, item: _PreparedPoints) -> _Rows:
    """Each point of the box with the item's most similar one, if no other is nearly as similar."""
    # Sums of products of bytes below 2^24 are exact, in whatever order they are added.
    # By PyTorch, because a server limits its threads; those of NumPy's library wait busily.
    own, other = torch.from_numpy(box.descriptors), torch.from_numpy(item.descriptors)
    distances = torch.addmm(torch.from_numpy(item.squares), own, other.T, alpha=-2).numpy()
    rows = np.arange(len(distances))  # each still without the square of the box's point
    best = distances.argmin(axis=1)
    nearest = distances[rows, best] + box.squares
    distances[rows, best] = np.inf
    second = distances.min(axis=1) + box.squares
    clear = np.flatnonzero(nearest < np.float32(MAX_RATIO**2) * second)
    return clear, best[clear]
