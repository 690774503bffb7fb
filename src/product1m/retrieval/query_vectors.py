"""Many queries that are ready for search: their boxes, vectors, and the points of their photos."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64

from product1m.data.points import Points, PointTable
from product1m.data.regions import FeatureSet
from product1m.retrieval.query_boxes import QueryBoxes
from product1m.retrieval.shared_points import CountShared, Matcher, PreparedItems


class SharedCounts:
    """Numbers of points that boxes share with gallery items, each computed only once.

    Rankings with different weights need mostly the same pairs. A pair takes 32 bytes of memory; the
    points stay on disk, except those of the most recently compared gallery items.
    """

    def __init__(self, queries: FeatureSet, gallery: PointTable) -> None:
        self._queries = queries
        self._items = PreparedItems(gallery)
        self._known: dict[tuple[int, bytes], tuple[np.ndarray, np.ndarray]] = {}

    def points(self, row: int) -> Points:
        """The points of the photo at a row of the queries' feature set."""
        return self._queries.points(row)

    def counts(
        self,
        row: int,
        box_xyxy: Float32[np.ndarray, "4"] | None,
        positions: Int64[np.ndarray, " n"],
    ) -> Float64[np.ndarray, "n 3"]:
        """Counts for a box of the query at a row of its feature set; None for the whole photo."""
        key = (row, b"" if box_xyxy is None else box_xyxy.tobytes())
        known, counts = self._known.get(key, (np.empty(0, np.int64), np.empty((0, 3))))
        new = np.setdiff1d(positions, known)
        if len(new):
            points = self._queries.points(row)
            box = points if box_xyxy is None else points.inside(box_xyxy)
            added = Matcher([box], self._items).count(0, new)
            known, counts = np.concatenate([known, new]), np.concatenate([counts, added])
            order = np.argsort(known)
            known, counts = known[order], counts[order]
            self._known[key] = known, counts
        return np.asarray(counts[np.searchsorted(known, positions)])


@dataclass(frozen=True)
class QueryVectors:
    """Unweighted vectors of several queries."""

    query_ids: list[str]
    boxes: list[QueryBoxes]
    box_vectors: Float32[np.ndarray, "I D"]
    """All boxes, query by query, each query's by descending detector score."""
    photo_vectors: Float32[np.ndarray, "Q D"]
    """One vector per query, of its whole photo."""
    shared: SharedCounts | None = None
    """None if the photos or the gallery have no points."""
    rows: Sequence[int] = ()
    """Rows of the queries in the feature set of `shared`."""

    @property
    def starts(self) -> Int64[np.ndarray, " Q1"]:
        """Row of `box_vectors` where each query begins, and the number of rows at the end."""
        return np.cumsum([0, *(len(boxes) for boxes in self.boxes)])

    def searched(
        self, whole_photo: bool
    ) -> tuple[Float32[np.ndarray, "I D"], Int64[np.ndarray, " Q1"]]:
        """The vectors that search, and the row where each query's begin."""
        if whole_photo:
            return self.photo_vectors, np.arange(len(self.photo_vectors) + 1)
        return self.box_vectors, self.starts

    def counting(self, whole_photo: bool = False, first: int = 0) -> CountShared | None:
        """Counts the shared points of these vectors, starting at the row `first`."""
        shared = self.shared
        if shared is None:
            return None
        places: list[tuple[int, np.ndarray | None]] = []
        for row, boxes in zip(self.rows, self.boxes, strict=True):
            places += [(row, box) for box in ([None] if whole_photo else boxes.boxes_xyxy)]
        return lambda place, positions: shared.counts(*places[first + place], positions)

    def select(self, rows: Sequence[int]) -> "QueryVectors":
        """Some of the queries."""
        starts = self.starts
        box_rows = [np.arange(starts[row], starts[row + 1]) for row in rows]
        return QueryVectors(
            [self.query_ids[row] for row in rows],
            [self.boxes[row] for row in rows],
            self.box_vectors[np.concatenate(box_rows)],
            self.photo_vectors[list(rows)],
            self.shared,
            [self.rows[row] for row in rows] if self.shared else (),
        )
