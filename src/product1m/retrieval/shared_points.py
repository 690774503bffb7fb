"""Check an answer by the points that its photo shares with a box, in the same arrangement.

Another photo of a pack shows the same printing. Points of both photos are paired by descriptors,
and RANSAC keeps the pairs that agree with one rotation, scale and shift (ours; ratio test: Lowe,
IJCV 2004). All computations are exact or in a fixed order, so the number of threads changes
nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64

from product1m.data.points import Points, PointTable

POINTS_WEIGHT = "points"
"""Key in the weights of a ranking: the factor of `strength`, added to a mean of cosines."""
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

CountShared = Callable[[int, Int64[np.ndarray, " n"]], Int64[np.ndarray, " n"]]
"""Gives the numbers of points that a box shares with gallery rows; the box is named by its position
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


def block_weights(weights: Mapping[str, float]) -> dict[str, float]:
    """The weights of a ranking without that of shared points."""
    return {name: weight for name, weight in weights.items() if name != POINTS_WEIGHT}


def strength(counts: Int64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Strength of numbers of shared points: 0 up to `CHANCE_POINTS`, then logarithmic."""
    return np.asarray(np.log1p(np.maximum(counts - CHANCE_POINTS, 0)))


def count_shared(
    box: Points, table: PointTable, positions: Int64[np.ndarray, " n"]
) -> Int64[np.ndarray, " n"]:
    """Numbers of points that a box shares with gallery items; 0 for row -1."""
    own = _Box.of(box)
    return np.array(
        [len(_shared(own, table[row])[0]) if row >= 0 else 0 for row in positions.tolist()],
        np.int64,
    )


def shared_points(box: Points, item: Points) -> SharedPoints:
    """The points that a box shares with a gallery item; none if there are too few to count."""
    own, other = _shared(_Box.of(box), item)
    return SharedPoints(box.points_xy[own], item.points_xy[other], item.size_px)


@dataclass(frozen=True)
class _Box:
    """A box's points, prepared for many items."""

    points_xy: Float32[np.ndarray, "P 2"]
    descriptors: Float32[np.ndarray, "P 128"]
    squares: Float32[np.ndarray, " P"]

    @classmethod
    def of(cls, points: Points) -> "_Box":
        descriptors = points.descriptors.astype(np.float32)
        return cls(points.points_xy, descriptors, _squares(descriptors))


def _squares(descriptors: Float32[np.ndarray, "P 128"]) -> Float32[np.ndarray, " P"]:
    return np.asarray(np.einsum("pd,pd->p", descriptors, descriptors))


_NONE = np.empty(0, np.int64)


def _shared(box: _Box, item: Points) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Rows of paired points of box and item; each place of the item is used once.

    SIFT finds several points at a place with several directions.
    """
    if min(len(box.points_xy), len(item)) <= CHANCE_POINTS:
        return _NONE, _NONE
    own, other = _pairs(box, item)
    places = _places(item.points_xy)
    if len(np.unique(places[other])) <= CHANCE_POINTS:
        return _NONE, _NONE
    source, target = box.points_xy[own], item.points_xy[other]
    extent = float(np.ptp(item.points_xy, axis=0).max())
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
    _, first = np.unique(places[other[rows]], return_index=True)
    if len(first) <= CHANCE_POINTS:
        return _NONE, _NONE
    return own[rows[first]], other[rows[first]]


def _places(points_xy: Float32[np.ndarray, "P 2"]) -> Int64[np.ndarray, " P"]:
    """A number per point, the same for points at one place; they are ordered by place."""
    moves = (points_xy[1:] != points_xy[:-1]).any(axis=1)
    return np.concatenate([[0], np.cumsum(moves)])


def _pairs(box: _Box, item: Points) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Each point of the box with the item's most similar one, if no other is nearly as similar."""
    descriptors = item.descriptors.astype(np.float32)
    # Sums of products of bytes below 2^24 are exact, in whatever order they are added.
    # PyTorch computes them, because a server limits its threads; NumPy's use a core while waiting.
    products = (torch.from_numpy(box.descriptors) @ torch.from_numpy(descriptors).T).numpy()
    distances = _squares(descriptors) - 2 * products
    distances += box.squares[:, None]
    rows = np.arange(len(distances))
    best = distances.argmin(axis=1)
    nearest = distances[rows, best]
    distances[rows, best] = np.inf
    clear = np.flatnonzero(nearest < np.float32(MAX_RATIO**2) * distances.min(axis=1))
    return clear, best[clear]
