"""Rank the gallery for a photo with its title: one code path for evaluation and serving."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from product1m.artifacts.folder import Artifact
from product1m.artifacts.lineage import require_built_with
from product1m.config import EvaluationConfig
from product1m.data.geometry import (
    BoxSelection,
    chosen_boxes,
)
from product1m.data.regions import FeatureSet, Regions
from product1m.errors import Product1MError, RetrievalError
from product1m.retrieval.embedding import BlockEncoder, BlockLayout
from product1m.retrieval.evidence import describe_answers
from product1m.retrieval.index import GalleryIndex
from product1m.retrieval.match_score import Evidence, MatchScorer
from product1m.retrieval.merging import MergeRule, merge
from product1m.retrieval.query_boxes import QueryBoxes, choose_boxes
from product1m.telemetry.progress import track

Nearest = tuple[Float32[np.ndarray, "I N"], Int64[np.ndarray, "I N"]]
"""For each box the similarities and gallery rows of its nearest items; -1 in unused places."""
QUERY_BATCH = 32
"""Queries whose views go through CAPTURE together (ours)."""


@dataclass(frozen=True)
class SearchSettings:
    """How a photo is searched with; the section `evaluation` explains each value."""

    boxes: BoxSelection
    depth: int
    """Length of a ranking."""
    merge: MergeRule

    @classmethod
    def from_config(
        cls, config: EvaluationConfig, detector: Artifact | None = None
    ) -> "SearchSettings":
        """The values of a configuration.

        Thresholds of the boxes that it leaves open are those that RPN training chose; `detector` is
        the RPN's artifact or one of features, which carries them too.
        """
        boxes = chosen_boxes(
            detector.manifest.details if detector else {},
            config.max_instances,
            config.instance_min_score,
            config.instance_nms_iou,
        )
        return cls(boxes, config.depth, config.merge)


@dataclass(frozen=True)
class SearchResult:
    """The answers to one photo with its title."""

    boxes: QueryBoxes
    rankings: list[list[tuple[str, float]]]
    """Gallery ids and similarities for each box, best first."""
    merged: list[str]
    """Gallery ids for the whole query, best first, without repeats."""
    match_scores: list[list[float]] | None = None
    """How probable it is that each answer of each box is right, 0 to 1; None if nothing was fitted.
    """


@dataclass(frozen=True)
class QueryVectors:
    """Unweighted vectors of several queries."""

    query_ids: list[str]
    boxes: list[QueryBoxes]
    box_vectors: Float32[np.ndarray, "I D"]
    """All boxes, query by query, each query's by falling detector score."""
    photo_vectors: Float32[np.ndarray, "Q D"]
    """Each query's whole photo."""

    @property
    def starts(self) -> Int64[np.ndarray, " Q1"]:
        """Row of `box_vectors` where each query begins, and the number of rows at the end."""
        return np.cumsum([0, *(len(boxes) for boxes in self.boxes)])

    def searched(
        self, whole_photo: bool
    ) -> tuple[Float32[np.ndarray, "I D"], Int64[np.ndarray, " Q1"]]:
        """The vectors to search with, and where each query's begin."""
        if whole_photo:
            return self.photo_vectors, np.arange(len(self.photo_vectors) + 1)
        return self.box_vectors, self.starts

    def select(self, rows: Sequence[int]) -> "QueryVectors":
        """Some of the queries."""
        starts = self.starts
        box_rows = [np.arange(starts[row], starts[row + 1]) for row in rows]
        return QueryVectors(
            [self.query_ids[row] for row in rows],
            [self.boxes[row] for row in rows],
            self.box_vectors[np.concatenate(box_rows)],
            self.photo_vectors[list(rows)],
        )


class Searcher:
    """An index with the CAPTURE it was built with: ranks the gallery for photos with titles."""

    def __init__(
        self,
        encoder: BlockEncoder,
        gallery: GalleryIndex,
        layout: BlockLayout,
        settings: SearchSettings,
    ) -> None:
        self.encoder = encoder
        self.gallery = gallery
        self.layout = layout
        self.settings = settings

    @classmethod
    def load(cls, index: Artifact, capture: Artifact, settings: SearchSettings) -> "Searcher":
        """Open an index and its CAPTURE; ArtifactError if the index was built with another one."""
        require_built_with(index, capture)
        details = index.manifest.details
        encoder = BlockEncoder.load(index, capture)
        layout = BlockLayout({name: int(width) for name, width in details["blocks"].items()})
        return cls(encoder, GalleryIndex.load(index), layout, settings)

    def search(
        self,
        caption: str,
        regions: Regions,
        weights: Mapping[str, float],
        depth: int | None = None,
        scorer: MatchScorer | None = None,
    ) -> SearchResult:
        """Rank the gallery for every box of a photo, and for the photo as a whole."""
        depth = depth or self.settings.depth
        boxes = choose_boxes(regions, self.settings.boxes)
        views = boxes.views(regions)
        vectors = self.encoder.vectors([caption] * len(views), views)
        return self.answer(vectors, boxes, weights, depth, scorer)

    def answer(
        self,
        vectors: Float32[np.ndarray, "I D"],
        boxes: QueryBoxes,
        weights: Mapping[str, float],
        depth: int,
        scorer: MatchScorer | None = None,
    ) -> SearchResult:
        """Rank the gallery for the boxes of one photo by their unweighted vectors."""
        nearest = self.nearest(vectors, weights, depth)
        rankings = self.named(*nearest)
        scores = None
        if scorer is not None:
            scores = self.match_scores(vectors, boxes.scores, nearest, weights, scorer)
        merged = merge(rankings, depth, self.settings.merge)
        return SearchResult(boxes, rankings, merged, scores)

    def rank_vectors(
        self, vectors: Float32[np.ndarray, "I D"], weights: Mapping[str, float], depth: int
    ) -> list[list[tuple[str, float]]]:
        """Gallery ids and similarities for each vector, best first."""
        return self.named(*self.nearest(vectors, weights, depth))

    def nearest(
        self, vectors: Float32[np.ndarray, "I D"], weights: Mapping[str, float], depth: int
    ) -> Nearest:
        """Similarities and rows of the nearest gallery items; -1 in unused places."""
        return self.gallery.search(vectors * self.layout.scale(weights), depth)

    def describe(
        self,
        vector: Float32[np.ndarray, " D"],
        detector_score: float,
        similarities: Float32[np.ndarray, " N"],
        positions: Int64[np.ndarray, " N"],
        weights: Mapping[str, float],
    ) -> Evidence:
        """What is known about each answer of a box; the arrays as one row of `nearest`."""
        used = positions >= 0
        return describe_answers(
            vector,
            float(detector_score),
            positions[used],
            similarities[used],
            self.gallery,
            self.layout,
            weights,
        )

    def match_scores(
        self,
        vectors: Float32[np.ndarray, "I D"],
        detector_scores: Float32[np.ndarray, " I"],
        nearest: Nearest,
        weights: Mapping[str, float],
        scorer: MatchScorer,
    ) -> list[list[float]]:
        """For each box how probable it is that each of its nearest items is right, 0 to 1."""
        boxes = zip(vectors, detector_scores, *nearest, strict=True)
        return [scorer.scores(self.describe(*box, weights)).tolist() for box in boxes]

    def named(
        self, similarities: Float32[np.ndarray, "I N"], positions: Int64[np.ndarray, "I N"]
    ) -> list[list[tuple[str, float]]]:
        """What `nearest` found, as gallery ids with their similarities."""
        return [
            [(self.gallery.ids[p], s) for p, s in zip(row, row_scores, strict=True) if p >= 0]
            for row, row_scores in zip(positions.tolist(), similarities.tolist(), strict=True)
        ]

    def rank(
        self,
        queries: QueryVectors,
        weights: Mapping[str, float],
        whole_photo: bool,
        rule: MergeRule | None = None,
    ) -> dict[str, list[str]]:
        """Merged rankings of many queries; by the rule of the settings if none is given."""
        rankings = self.rank_boxes(queries, weights, whole_photo)
        return {
            query: merge(own, self.settings.depth, rule or self.settings.merge)
            for query, own in zip(queries.query_ids, rankings, strict=True)
        }

    def rank_boxes(
        self, queries: QueryVectors, weights: Mapping[str, float], whole_photo: bool = False
    ) -> Iterator[list[list[tuple[str, float]]]]:
        """For each query the rankings of its boxes: gallery ids and match scores, best first."""
        vectors, starts = queries.searched(whole_photo)
        # A few thousand vectors at once, so that weighting them does not double the memory.
        for first in range(0, len(queries.query_ids), QUERY_BATCH * 16):
            last = min(first + QUERY_BATCH * 16, len(queries.query_ids))
            rankings = self.rank_vectors(
                vectors[starts[first] : starts[last]], weights, self.settings.depth
            )
            for row in range(first, last):
                yield rankings[starts[row] - starts[first] : starts[row + 1] - starts[first]]

    def embed(self, queries: FeatureSet) -> QueryVectors:
        """Vectors of all queries of a feature set; RetrievalError names a query that fails."""
        ids: list[str] = queries.rows["id"].tolist()
        captions: list[str] = queries.rows["caption"].tolist()
        boxes: list[QueryBoxes] = []
        box_vectors: list[np.ndarray] = []
        photo_vectors: list[np.ndarray] = []
        for start in track(range(0, len(ids), QUERY_BATCH), "embedding queries"):
            batch: list[_Query] = []
            for row in range(start, min(start + QUERY_BATCH, len(ids))):
                with _naming(ids[row]):
                    regions = queries.regions(row)
                    _check(regions)
                    boxes.append(choose_boxes(regions, self.settings.boxes))
                    views = [regions, *boxes[-1].views(regions)]
                    batch.append(_Query(ids[row], captions[row], views))
            vectors = self._encode(batch)
            firsts = np.cumsum([0, *(len(query.views) for query in batch)])[:-1]
            photo_vectors.append(vectors[firsts])
            box_vectors.append(np.delete(vectors, firsts, axis=0))
        return QueryVectors(ids, boxes, np.concatenate(box_vectors), np.concatenate(photo_vectors))

    def embed_views(
        self,
        queries: FeatureSet,
        rows: Sequence[int],
        views: Sequence[Sequence[Regions]],
        boxes: Sequence[QueryBoxes],
        photo_vectors: Float32[np.ndarray, "Q D"],
    ) -> QueryVectors:
        """Vectors of some queries from given views instead of the boxes that `embed` chooses.

        Args:
            queries: the feature set.
            rows: which of its queries.
            views: one view per box, for each of these queries.
            boxes: where the views are.
            photo_vectors: each query's whole photo, which does not depend on the views.
        """
        table = queries.rows.iloc[list(rows)]
        given = [
            _Query(query, caption, list(own))
            for query, caption, own in zip(table["id"], table["caption"], views, strict=True)
        ]
        batches = track(range(0, len(given), QUERY_BATCH), "embedding other boxes")
        vectors = [self._encode(given[start : start + QUERY_BATCH]) for start in batches]
        ids = table["id"].tolist()
        return QueryVectors(ids, list(boxes), np.concatenate(vectors), photo_vectors)

    def _encode(self, batch: Sequence["_Query"]) -> Float32[np.ndarray, "I D"]:
        """Vectors of all views of some queries, query by query."""
        titles = [query.caption for query in batch for _ in query.views]
        try:
            return self.encoder.vectors(titles, [view for query in batch for view in query.views])
        except _FAILURES:
            for query in batch:  # one by one, to find the query that fails
                with _naming(query.id):
                    self.encoder.vectors([query.caption] * len(query.views), query.views)
            raise


@dataclass(frozen=True)
class _Query:
    id: str
    caption: str
    views: list[Regions]
    """What is encoded: boxes, or the whole photo, each with the regions inside it."""


_FAILURES = (Product1MError, ValueError, RuntimeError, IndexError, TypeError)


@contextmanager
def _naming(query: str) -> Iterator[None]:
    """Add the query's id to an error."""
    try:
        yield
    except _FAILURES as error:
        raise RetrievalError(f"query {query}: {error}") from error


def _check(regions: Regions) -> None:
    """RetrievalError if a photo has no region or a number is not finite."""
    if not len(regions):
        raise RetrievalError("no region, not even the whole photo; run feature_extraction again")
    if not (np.isfinite(regions.features).all() and np.isfinite(regions.boxes_xyxy).all()):
        raise RetrievalError(
            "a region's feature or box is not a finite number; run feature_extraction again"
        )
