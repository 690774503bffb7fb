"""Rank the gallery for a photo with its title: one code path for evaluation and serving."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, Int64

from product1m.artifacts.folder import Artifact
from product1m.artifacts.lineage import require_built_with
from product1m.config import EvaluationConfig
from product1m.data.geometry import (
    BoxSelection,
    chosen_boxes,
)
from product1m.data.points import Points
from product1m.data.regions import FeatureSet, Regions
from product1m.errors import Product1MError, RetrievalError
from product1m.retrieval.checking import (
    Nearest,
    block_weights,
    check_answers,
    compare_with_best,
    share_answers,
)
from product1m.retrieval.embedding import FIRST_AUTHOR, BlockEncoder, BlockLayout
from product1m.retrieval.evidence import describe_answers
from product1m.retrieval.first_author import FirstAuthorSearch
from product1m.retrieval.index import GalleryIndex
from product1m.retrieval.match_score import AnswerEvidence, MatchScorer
from product1m.retrieval.merging import MergeRule, merge
from product1m.retrieval.query_boxes import QueryBoxes, choose_boxes
from product1m.retrieval.query_vectors import QueryVectors, SharedCounts
from product1m.retrieval.shared_points import (
    CountShared,
    Matcher,
    PreparedItems,
    SharedPoints,
)
from product1m.telemetry.progress import track

QUERY_BATCH = 32
"""Number of queries whose views CAPTURE embeds together (ours)."""


@dataclass(frozen=True)
class SearchSettings:
    """How a photo searches the gallery; the section `evaluation` explains each value."""

    boxes: BoxSelection
    depth: int
    """Length of a ranking."""
    merge: MergeRule
    checked: int = 20
    """Number of a box's first answers that are checked by shared points."""

    @classmethod
    def from_config(
        cls, config: EvaluationConfig, detector: Artifact | None = None
    ) -> "SearchSettings":
        """The settings in a configuration section.

        Thresholds of boxes that it does not set are those that RPN training chose. `detector` is an
        artifact that has them: the RPN, or features.
        """
        boxes = chosen_boxes(
            detector.manifest.details if detector else {},
            config.max_instances,
            config.instance_min_score,
            config.instance_nms_iou,
        )
        return cls(boxes, config.depth, config.merge, config.checked_answers)


@dataclass(frozen=True)
class SearchResult:
    """The answers to one photo with its title."""

    boxes: QueryBoxes
    rankings: list[list[tuple[str, float]]]
    """Gallery ids and similarities for each box, best first."""
    merged: list[str]
    """Gallery ids for the whole query, best first, without repeats."""
    match_scores: list[list[float]] | None = None
    """Probability that each answer of each box is right, 0 to 1, not more than that of the answer
    before it; None if nothing was fitted."""
    in_catalogue: list[bool | None] | None = None
    """Whether the catalogue has the product of each box, see `MatchScorer.in_catalogue`; None if
    nothing was fitted."""
    matcher: Matcher | None = None
    """Compares the boxes with gallery items by their points; None without points."""


class Searcher:
    """An index with the CAPTURE it was built with: ranks the gallery for photos with titles."""

    def __init__(
        self,
        encoder: BlockEncoder,
        gallery: GalleryIndex,
        layout: BlockLayout,
        settings: SearchSettings,
        first_author: FirstAuthorSearch | None = None,
    ) -> None:
        """`first_author` makes the first author's ranking, for comparison in evaluations."""
        self.first_author = first_author
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
        gallery = GalleryIndex.load(index)
        first_author = FirstAuthorSearch.load(index, gallery, layout)
        return cls(encoder, gallery, layout, settings, first_author)

    def search(
        self,
        caption: str,
        regions: Regions,
        weights: Mapping[str, float],
        depth: int | None = None,
        scorer: MatchScorer | None = None,
    ) -> SearchResult:
        """Rank the gallery for every box of a photo, and merge these rankings."""
        depth = depth or self.settings.depth
        boxes = choose_boxes(regions, self.settings.boxes)
        views = boxes.views(regions)
        vectors = self.encoder.vectors([caption] * len(views), views)
        matcher = self.matcher(regions.points, boxes)
        count = matcher.count if matcher else None
        result = self.answer(vectors, boxes, weights, depth, scorer, count)
        return replace(result, matcher=matcher)

    def answer(
        self,
        vectors: Float32[np.ndarray, "I D"],
        boxes: QueryBoxes,
        weights: Mapping[str, float],
        depth: int,
        scorer: MatchScorer | None = None,
        count: CountShared | None = None,
    ) -> SearchResult:
        """Rank the gallery for the boxes of one photo, from their unweighted vectors.

        `count` counts the points that the boxes share with gallery items.
        """
        whole = np.array([0, len(vectors)])
        nearest = self.nearest(vectors, weights, depth, count, whole)
        rankings = self.named(nearest)
        scores = in_catalogue = None
        if scorer is not None:
            evidence = self.evidence(vectors, boxes.scores, nearest, weights)
            # No answer is given as more probable than the one before it.
            scores = [np.minimum.accumulate(scorer.scores(own)).tolist() for own in evidence]
            in_catalogue = [scorer.in_catalogue(own) for own in evidence]
        merged = merge(rankings, depth, self.settings.merge)
        return SearchResult(boxes, rankings, merged, scores, in_catalogue)

    def rank_vectors(
        self,
        vectors: Float32[np.ndarray, "I D"],
        weights: Mapping[str, float],
        depth: int,
        count: CountShared | None = None,
        starts: Int64[np.ndarray, " P1"] | None = None,
    ) -> list[list[tuple[str, float]]]:
        """Gallery ids and similarities for each vector, best first; see `nearest`."""
        return self.named(self.nearest(vectors, weights, depth, count, starts))

    def nearest(
        self,
        vectors: Float32[np.ndarray, "I D"],
        weights: Mapping[str, float],
        depth: int,
        count: CountShared | None = None,
        starts: Int64[np.ndarray, " P1"] | None = None,
    ) -> Nearest:
        """The nearest items of each vector, after all checks.

        `starts` says where each photo's vectors begin, and their number at the end; None if every
        vector is alone in its photo.
        """
        if FIRST_AUTHOR in weights:
            return self.checked(self._by_products(vectors, depth), weights, count)
        stored = vectors[:, : self.layout.dim]
        nearest = self.gallery.search(stored * self.layout.scale(block_weights(weights)), depth)
        checked = self.checked(Nearest(*nearest), weights, count)
        return checked if starts is None else share_answers(checked, weights, starts)

    def _by_products(self, vectors: Float32[np.ndarray, "I D"], depth: int) -> Nearest:
        if self.first_author is None:
            raise RetrievalError(
                f"the index keeps no block {FIRST_AUTHOR}: its gallery is too large for the first "
                "author's ranking; leave that ranking out"
            )
        return Nearest(*self.first_author.nearest(vectors, depth))

    def checked(
        self, nearest: Nearest, weights: Mapping[str, float], count: CountShared | None
    ) -> Nearest:
        """Reorder the answers by shared points, then by their similarity to the best answers."""
        checked = check_answers(nearest, weights, count, self.settings.checked)
        return compare_with_best(checked, weights, self.gallery, self.layout)

    def matcher(self, points: Points, boxes: QueryBoxes) -> Matcher | None:
        """Compares the boxes of a photo with gallery items; None without the gallery's points."""
        if self.gallery.points is None:
            return None
        items = PreparedItems(self.gallery.points)
        return Matcher([points.inside(box) for box in boxes.boxes_xyxy], items)

    def explain(self, result: SearchResult) -> list[list[SharedPoints]]:
        """The points that each box of a photo shares with each of its answers."""
        matcher, rows = result.matcher, self.gallery.places
        return [
            [matcher.shared(place, rows[item]) for item, _ in ranking] if matcher else []
            for place, ranking in enumerate(result.rankings)
        ]

    def describe(
        self,
        vector: Float32[np.ndarray, " D"],
        detector_score: float,
        nearest: Nearest,
        weights: Mapping[str, float],
    ) -> AnswerEvidence:
        """Evidence for each answer of a box; `nearest` belongs to this box only."""
        used = nearest.positions[0] >= 0
        strengths, agreements = nearest.checks[:, 0, used]
        return describe_answers(
            vector,
            float(detector_score),
            nearest.positions[0][used],
            strengths,
            agreements,
            self.gallery,
            self.layout,
            block_weights(weights),
        )

    def evidence(
        self,
        vectors: Float32[np.ndarray, "I D"],
        detector_scores: Float32[np.ndarray, " I"],
        nearest: Nearest,
        weights: Mapping[str, float],
    ) -> list[AnswerEvidence]:
        """For each box, the evidence for its nearest items."""
        boxes = zip(vectors, detector_scores, nearest.boxes(), strict=True)
        return [self.describe(*box, weights) for box in boxes]

    def named(self, nearest: Nearest) -> list[list[tuple[str, float]]]:
        """The nearest items as gallery ids with their similarities."""
        used = nearest.positions >= 0
        rows = zip(nearest.positions, nearest.scores, used, strict=True)
        return [
            list(zip(self.gallery.ids.at(row[kept]), scores[kept].tolist(), strict=True))
            for row, scores, kept in rows
        ]

    def rank(
        self,
        queries: QueryVectors,
        weights: Mapping[str, float],
        whole_photo: bool,
        rule: MergeRule | None = None,
    ) -> dict[str, list[str]]:
        """Merged rankings of many queries, by `rule`, or else by the rule in the settings."""
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
        # Weighting a few thousand vectors at a time does not double the memory.
        for first in range(0, len(queries.query_ids), QUERY_BATCH * 16):
            last = min(first + QUERY_BATCH * 16, len(queries.query_ids))
            rankings = self.rank_vectors(
                vectors[starts[first] : starts[last]],
                weights,
                self.settings.depth,
                queries.counting(whole_photo, int(starts[first])),
                starts[first : last + 1] - starts[first],
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
        each_box, each_photo = np.concatenate(box_vectors), np.concatenate(photo_vectors)
        shared = self._shared(queries)
        return QueryVectors(ids, boxes, each_box, each_photo, shared, range(len(ids)))

    def _shared(self, queries: FeatureSet) -> SharedCounts | None:
        if self.gallery.points is None or not queries.has_points:
            return None
        return SharedCounts(queries, self.gallery.points)

    def embed_views(
        self,
        queries: FeatureSet,
        rows: Sequence[int],
        views: Sequence[Sequence[Regions]],
        boxes: Sequence[QueryBoxes],
        detected: QueryVectors,
    ) -> QueryVectors:
        """Vectors of some queries from given views instead of the boxes that `embed` chooses.

        Args:
            queries: the feature set.
            rows: rows of the queries in it.
            views: one view per box, for each of these queries.
            boxes: the boxes of the views.
            detected: result of `embed` for these queries.
        """
        table = queries.rows.iloc[list(rows)]
        given = [
            _Query(query, caption, list(own))
            for query, caption, own in zip(table["id"], table["caption"], views, strict=True)
        ]
        batches = track(range(0, len(given), QUERY_BATCH), "embedding other boxes")
        vectors = [self._encode(given[start : start + QUERY_BATCH]) for start in batches]
        ids = table["id"].tolist()
        return replace(
            detected, query_ids=ids, boxes=list(boxes), box_vectors=np.concatenate(vectors)
        )

    def _encode(self, batch: Sequence["_Query"]) -> Float32[np.ndarray, "I D"]:
        """Vectors of all views of some queries, query by query."""
        titles = [query.caption for query in batch for _ in query.views]
        try:
            return self.encoder.vectors(titles, [view for query in batch for view in query.views])
        except _FAILURES:
            for query in batch:  # one query at a time, to find the one that fails
                with _naming(query.id):
                    self.encoder.vectors([query.caption] * len(query.views), query.views)
            raise


@dataclass(frozen=True)
class _Query:
    id: str
    caption: str
    views: list[Regions]
    """Boxes, or the whole photo, each with the regions inside it."""


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
