"""The FAISS index of the gallery: built from a factory string, searched by inner product."""

import copy
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pandas as pd
from jaxtyping import Float32, Int64

from product1m.artifacts.folder import Artifact
from product1m.data.early_checks import POINTS_PER_CELL, too_few_to_train
from product1m.data.items import read_items
from product1m.data.points import PointTable, open_points
from product1m.data.texts import Places, Texts
from product1m.errors import RetrievalError
from product1m.retrieval.copies import find_copies

logger = logging.getLogger(__name__)

INDEX = "index.faiss"
GALLERY = "gallery.parquet"
VECTOR_ID = "vector_id"
"""Column of the gallery's table; only in an index that was refreshed in place."""
_HASHTABLE: int = faiss.DirectMap.Hashtable  # type: ignore[attr-defined]
REFINED = 16
"""Candidates by coarse codes for every neighbor asked for, if the index refines them (ours)."""
_MORE_PROBES = 1.25
"""Factor from one number of probes to the next that is tried (ours)."""
_NO_MORE_RECALL = 0.001
"""Recall that is no reason to visit more cells (ours)."""
QUERY_CHUNK = 1024
"""Number of queries searched at once; limits the memory of exact search (ours)."""


def make_index(factory: str, dim: int, num_points: int, probes: int, seed: int) -> Any:
    """An empty FAISS index for inner products.

    Raises RetrievalError for a factory string that FAISS cannot read, or that needs more than
    `num_points` training points; the message suggests one that fits.
    """
    try:
        index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise RetrievalError(
            f"indexing.factory={factory!r}: FAISS cannot build it for {dim} dimensions ({reason}); "
            "try Flat, HNSW32, IVF1024,SQ8 or IVF1024,PQ64"
        ) from None
    _check_points(index, factory, num_points)
    for part in parts_of(index):
        if isinstance(part, faiss.IndexIVF):
            part.cp.seed = seed
            part.cp.min_points_per_centroid = 1  # _check_points warns
        if hasattr(part, "pq"):
            part.pq.cp.seed = seed
        if isinstance(part, faiss.IndexRefine):
            part.k_factor = REFINED
    set_probes(index, probes)
    return index


def set_probes(index: Any, probes: int) -> None:
    """Set how much of the index a query visits: cells of an IVF, breadth of an HNSW search."""
    for part in parts_of(index):
        if isinstance(part, faiss.IndexIVF):
            part.nprobe = min(probes, part.nlist)
        if isinstance(part, faiss.IndexHNSW):
            part.hnsw.efSearch = probes


def probes_of(index: Any) -> int:
    """What `set_probes` set; 0 for an index that looks at every vector."""
    for part in parts_of(index):
        if isinstance(part, faiss.IndexIVF):
            return int(part.nprobe)
        if isinstance(part, faiss.IndexHNSW):
            return int(part.hnsw.efSearch)
    return 0


def _most_probes(index: Any) -> int:
    for part in parts_of(index):
        if isinstance(part, faiss.IndexIVF):
            return int(part.nlist)
        if isinstance(part, faiss.IndexHNSW):
            return int(part.ntotal)
    return 0


def reach_recall(
    index: Any,
    queries: Float32[np.ndarray, "Q D"],
    truth: Int64[np.ndarray, "Q N"],
    least: float,
    most_probes: int | None = None,
) -> float:
    """Let a query visit more of a filled index until it finds enough; returns the recall.

    If even all cells that may be visited do not reach it, because the codes are too coarse, the
    fewest are kept that lose nothing.

    Args:
        index: with the fewest probes to use; they are kept if they find enough.
        queries: to measure with.
        truth: ids of their true nearest vectors.
        least: recall to reach, if the probes that are allowed can reach it.
        most_probes: to use; by default all cells may be visited.
    """
    most = _most_probes(index) if most_probes is None else min(most_probes, _most_probes(index))
    reached: dict[int, float] = {}
    while True:
        _, nearest = index.search(queries, truth.shape[1])
        probes = probes_of(index)
        reached[probes] = recall = recall_at_depth(nearest, truth)
        if recall >= least:
            return recall
        if probes >= most:
            break
        set_probes(index, min(most, max(probes + 1, round(probes * _MORE_PROBES))))
    enough = max(reached.values()) - _NO_MORE_RECALL
    probes = min(probes for probes, recall in reached.items() if recall >= enough)
    set_probes(index, probes)
    return reached[probes]


def add_vectors(index: Any, vectors: Float32[np.ndarray, "n D"]) -> None:
    """Add gallery vectors; one thread builds a graph, so that the result is always the same."""
    if not any(isinstance(part, faiss.IndexHNSW) for part in parts_of(index)):
        index.add(vectors)
        return
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        index.add(vectors)
    finally:
        faiss.omp_set_num_threads(threads)


class ExactSearch:
    """The true nearest neighbors of some queries, while the gallery is added in chunks."""

    def __init__(self, queries: Float32[np.ndarray, "Q D"], depth: int) -> None:
        self.queries = queries
        self.depth = depth
        self.seconds = 0.0
        self._heap = faiss.ResultHeap(len(queries), depth, keep_max=True)
        self._num_items = 0

    def add(self, vectors: Float32[np.ndarray, "n D"]) -> None:
        """Add the next chunk of the gallery."""
        started = time.perf_counter()
        depth = min(self.depth, len(vectors))
        scores, positions = faiss.knn(
            self.queries, vectors, depth, metric=faiss.METRIC_INNER_PRODUCT
        )
        self._heap.add_result(scores, positions + self._num_items)
        self.seconds += time.perf_counter() - started
        self._num_items += len(vectors)

    def positions(self) -> Int64[np.ndarray, "Q N"]:
        """The nearest `depth` gallery items of each query; fewer if the gallery is smaller."""
        return self.scores_and_positions()[1]

    def scores_and_positions(
        self,
    ) -> tuple[Float32[np.ndarray, "Q N"], Int64[np.ndarray, "Q N"]]:
        """Inner products and positions of the nearest items."""
        self._heap.finalize()
        return self._heap.D[:, : self._num_items], self._heap.I[:, : self._num_items]


@dataclass(frozen=True)
class SearchQuality:
    """An index compared with exact search on the same queries."""

    recall: float
    """Share of the true neighbors that the index finds."""
    queries_per_s: float
    exact_queries_per_s: float


def measure(index: Any, exact: ExactSearch) -> SearchQuality:
    """Recall and speed of a filled index; all queries count equally."""
    truth = exact.positions()
    started = time.perf_counter()
    _, nearest = index.search(exact.queries, truth.shape[1])
    seconds = time.perf_counter() - started
    return SearchQuality(
        recall_at_depth(nearest, truth),
        len(truth) / max(seconds, 1e-9),
        len(truth) / max(exact.seconds, 1e-9),
    )


def recall_at_depth(nearest: Int64[np.ndarray, "Q N"], truth: Int64[np.ndarray, "Q N"]) -> float:
    """Mean share of the true neighbors that were found."""
    shares = [
        len(np.intersect1d(row, true)) / len(true) for row, true in zip(nearest, truth, strict=True)
    ]
    return float(np.mean(shares))


class GalleryIndex:
    """The filled index with the gallery items that its vectors belong to.

    Args:
        index: the FAISS index.
        rows: the items, one per vector. In an index that was refreshed in place, the column
            `vector_id` is the id of a vector, ascending; otherwise it is the position of the row.
        points: points of the items' photos, row for row; None if they were not computed.
    """

    def __init__(self, index: Any, rows: pd.DataFrame, points: PointTable | None = None) -> None:
        if index.ntotal != len(rows):
            raise RetrievalError(
                f"the index holds {index.ntotal} vectors but {GALLERY} lists {len(rows)} items; "
                "run indexing again"
            )
        self._vector_ids = rows[VECTOR_ID].to_numpy(np.int64) if VECTOR_ID in rows else None
        refined = isinstance(faiss.downcast_index(index), faiss.IndexRefine)
        for part in [] if refined else parts_of(index):  # finer codes lie in the order of the rows
            if isinstance(part, faiss.IndexIVF):  # so that stored vectors can be looked up
                if self._vector_ids is None:
                    part.make_direct_map()
                else:
                    part.set_direct_map_type(_HASHTABLE)
        self._index = index
        self.rows = rows
        self.points = points
        if points is not None and len(points) != len(rows):
            raise RetrievalError(
                f"its files hold the points of {len(points)} items but {GALLERY} lists "
                f"{len(rows)}; run indexing again"
            )
        self._copies = find_copies(rows, self.vectors)
        self.ids = Texts(rows["id"])

    def with_points(self, points: PointTable | None) -> "GalleryIndex":
        """The same index with these points of its items, row for row."""
        other = copy.copy(self)
        other.points = points
        return other

    @cached_property
    def places(self) -> Places:
        """Row of each item, by id."""
        return Places(self.ids)

    @cached_property
    def products(self) -> Int64[np.ndarray, " G"]:
        """A number per item, equal for items with equal labels; unique if it has no label."""
        alone = -1 - np.arange(len(self), dtype=np.int64)
        if "labels" not in self.rows:
            return alone
        known: dict[str, int] = {"": -1}
        numbers = (known.setdefault(name, len(known)) for name in self.first_labels())
        products = np.fromiter(numbers, np.int64, len(self))
        return np.where(products < 0, alone, products)

    def first_labels(self) -> Iterator[str]:
        """The first label of each item; empty if it has none."""
        return (own[0] if len(own) else "" for own in self.rows["labels"])

    @classmethod
    def load(cls, artifact: Artifact) -> "GalleryIndex":
        """Read an indexing artifact."""
        rows = read_items(artifact, GALLERY)
        return cls(read_index(artifact.file(INDEX)), rows, open_points(artifact))

    def __len__(self) -> int:
        return len(self.ids)

    def search(
        self, queries: Float32[np.ndarray, "Q D"], depth: int
    ) -> tuple[Float32[np.ndarray, "Q N"], Int64[np.ndarray, "Q N"]]:
        """Inner products and row positions of the nearest items; -1 in unused places.

        Items with equal photo and caption get the best score among them and stand together, in the
        order of their ids, whatever the depth and the other queries.
        """
        depth = min(depth, len(self))
        scores = np.empty((len(queries), depth), np.float32)
        positions = np.empty((len(queries), depth), np.int64)
        for start in range(0, len(queries), QUERY_CHUNK):
            rows = slice(start, start + QUERY_CHUNK)
            scores[rows], nearest = self._index.search(np.ascontiguousarray(queries[rows]), depth)
            positions[rows] = self._positions(nearest)
        self._order_copies(scores, positions)
        return scores, positions

    def vectors(self, positions: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, "n D"]:
        """Stored vectors of gallery rows, in the precision of the index."""
        ids = positions if self._vector_ids is None else self._vector_ids[positions]
        stored: Float32[np.ndarray, "n D"] = self._index.reconstruct_batch(ids)
        return stored

    def originals(self, positions: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """The first copy of each row's listing, or the row itself if it has no copies.

        The vectors of copies differ by rounding.
        """
        rows = positions.tolist()
        return np.array([self._copies.get(row, (row,))[0] for row in rows], np.int64)

    def _positions(self, vector_ids: Int64[np.ndarray, "Q N"]) -> Int64[np.ndarray, "Q N"]:
        if self._vector_ids is None:
            return vector_ids
        rows = np.searchsorted(self._vector_ids, vector_ids)
        return np.where(vector_ids < 0, -1, rows)

    def _order_copies(
        self, scores: Float32[np.ndarray, "Q N"], positions: Int64[np.ndarray, "Q N"]
    ) -> None:
        """Move all copies of an item to its best one; FAISS leaves them in an arbitrary order."""
        if not self._copies:
            return
        copied = np.zeros(len(self) + 1, bool)  # the last one for places that are not used
        copied[list(self._copies)] = True
        for row in np.flatnonzero(copied[positions].any(axis=1)):
            order: dict[int, float] = {}
            for position, score in zip(positions[row].tolist(), scores[row].tolist(), strict=True):
                for same in self._copies.get(position, (position,)):
                    order.setdefault(same, score)
            used = [place for place in order if place >= 0][: positions.shape[1]]
            positions[row, : len(used)] = used
            scores[row, : len(used)] = [order[place] for place in used]


def write_index(index: Any, path: Path) -> None:
    """Write an index file."""
    faiss.write_index(index, str(path))


def read_index(path: Path) -> Any:
    """Read an index file."""
    return faiss.read_index(str(path))


def parts_of(index: Any) -> list[Any]:
    """An index and the indexes that it wraps, each with its own class."""
    index = faiss.downcast_index(index)
    parts = [index]
    for name in ("index", "base_index"):
        if getattr(index, name, None) is not None:
            parts += parts_of(getattr(index, name))
    return parts


def _check_points(index: Any, factory: str, num_points: int) -> None:
    needed = 0
    for part in parts_of(index):
        if isinstance(part, faiss.IndexIVF):
            needed = max(needed, part.nlist)
        if hasattr(part, "pq"):
            needed = max(needed, part.pq.ksub)
    if num_points < needed:
        raise RetrievalError(too_few_to_train(factory, needed, num_points))
    if num_points < needed * POINTS_PER_CELL:
        logger.warning(
            "%s: %d training points for %d cells; %d would make good ones",
            factory,
            num_points,
            needed,
            needed * POINTS_PER_CELL,
        )
