"""A photo with its title to rankings of the gallery: one code path for evaluation and serving."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from product1m.artifacts.folder import Artifact
from product1m.artifacts.lineage import require_built_with
from product1m.capture.network import load_capture
from product1m.config import EvaluationConfig
from product1m.data.geometry import BoxSelection
from product1m.data.regions import FeatureSet, Regions
from product1m.errors import Product1MError, RetrievalError
from product1m.retrieval.embedding import BlockEncoder, BlockLayout, ImageStandardization
from product1m.retrieval.index import GalleryIndex
from product1m.retrieval.instances import Instances, find_instances
from product1m.retrieval.merging import MergeRule, merge
from product1m.retrieval.text import TextEncoder
from product1m.telemetry.progress import track

QUERY_BATCH = 32
"""Queries whose views go through CAPTURE together (ours)."""


@dataclass(frozen=True)
class SearchSettings:
    """How a photo is searched with; `evaluation` in the configuration explains each value."""

    boxes: BoxSelection
    depth: int
    """Length of a ranking."""
    merge: MergeRule

    @classmethod
    def from_config(cls, config: EvaluationConfig) -> "SearchSettings":
        """The values of a configuration."""
        boxes = BoxSelection(
            config.instance_min_score, config.instance_nms_iou, config.max_instances
        )
        return cls(boxes, config.depth, config.merge)


@dataclass(frozen=True)
class SearchResult:
    """What one photo with its title finds."""

    instances: Instances
    rankings: list[list[tuple[str, float]]]
    """Gallery ids and scores for each instance, best first."""
    merged: list[str]
    """Gallery ids for the whole query, best first, none twice."""


@dataclass(frozen=True)
class QueryVectors:
    """Unweighted vectors of several queries' views."""

    query_ids: list[str]
    found: list[Instances]
    instances: Float32[np.ndarray, "I D"]
    """The queries' instances one query after the other, each query's by falling score."""
    whole: Float32[np.ndarray, "Q D"]
    """Each query's whole photo."""

    @property
    def starts(self) -> Int64[np.ndarray, " Q1"]:
        """Where a query's instances begin; one entry more than there are queries."""
        return np.cumsum([0, *(len(found) for found in self.found)])

    def views(
        self, whole_photo: bool
    ) -> tuple[Float32[np.ndarray, "I D"], Int64[np.ndarray, " Q1"]]:
        """The vectors to search with and where each query's begin."""
        if whole_photo:
            return self.whole, np.arange(len(self.whole) + 1)
        return self.instances, self.starts

    def select(self, rows: Sequence[int]) -> "QueryVectors":
        """Some of the queries."""
        starts = self.starts
        instances = [np.arange(starts[row], starts[row + 1]) for row in rows]
        return QueryVectors(
            [self.query_ids[row] for row in rows],
            [self.found[row] for row in rows],
            self.instances[np.concatenate(instances)],
            self.whole[list(rows)],
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
        encoder = BlockEncoder(
            load_capture(capture),
            ImageStandardization.load(index),
            TextEncoder.load(index),
            details["streams"],
        )
        layout = BlockLayout({name: int(width) for name, width in details["blocks"].items()})
        return cls(encoder, GalleryIndex.load(index), layout, settings)

    def search(
        self,
        caption: str,
        regions: Regions,
        weights: Mapping[str, float],
        depth: int | None = None,
    ) -> SearchResult:
        """Rank the gallery for every instance in a photo, and for the photo as a whole."""
        depth = depth or self.settings.depth
        instances = find_instances(regions, self.settings.boxes)
        views = instances.views(regions)
        vectors = self.encoder.vectors([caption] * len(views), views)
        rankings = self.rank_instances(vectors, weights, depth)
        return SearchResult(instances, rankings, merge(rankings, depth, self.settings.merge))

    def rank_instances(
        self, vectors: Float32[np.ndarray, "I D"], weights: Mapping[str, float], depth: int
    ) -> list[list[tuple[str, float]]]:
        """Gallery ids and scores for each vector, best first."""
        scores, positions = self.gallery.search(vectors * self.layout.scale(weights), depth)
        return [
            [(self.gallery.ids[p], s) for p, s in zip(row, row_scores, strict=True) if p >= 0]
            for row, row_scores in zip(positions.tolist(), scores.tolist(), strict=True)
        ]

    def rank(
        self,
        queries: QueryVectors,
        weights: Mapping[str, float],
        whole_photo: bool,
        rule: MergeRule | None = None,
    ) -> dict[str, list[str]]:
        """Merged rankings of many queries; by the configuration's rule unless another is given."""
        vectors, starts = queries.views(whole_photo)
        rankings: dict[str, list[str]] = {}
        # A few thousand vectors at once, so that weighting them doubles no memory.
        for first in range(0, len(queries.query_ids), QUERY_BATCH * 16):
            last = min(first + QUERY_BATCH * 16, len(queries.query_ids))
            found = self.rank_instances(
                vectors[starts[first] : starts[last]], weights, self.settings.depth
            )
            for row in range(first, last):
                of_query = found[starts[row] - starts[first] : starts[row + 1] - starts[first]]
                merged = merge(of_query, self.settings.depth, rule or self.settings.merge)
                rankings[queries.query_ids[row]] = merged
        return rankings

    def embed(self, queries: FeatureSet) -> QueryVectors:
        """Vectors of all queries of a feature set; RetrievalError names a query that fails."""
        ids: list[str] = queries.rows["id"].tolist()
        captions: list[str] = queries.rows["caption"].tolist()
        found: list[Instances] = []
        instances: list[np.ndarray] = []
        whole: list[np.ndarray] = []
        for start in track(range(0, len(ids), QUERY_BATCH), "embedding queries"):
            batch: list[_Query] = []
            for row in range(start, min(start + QUERY_BATCH, len(ids))):
                with _naming(ids[row]):
                    regions = queries.regions(row)
                    _check(regions)
                    found.append(find_instances(regions, self.settings.boxes))
                    views = [regions, *found[-1].views(regions)]
                    batch.append(_Query(ids[row], captions[row], views))
            vectors = self._encode(batch)
            firsts = np.cumsum([0, *(len(query.views) for query in batch)])[:-1]
            whole.append(vectors[firsts])
            instances.append(np.delete(vectors, firsts, axis=0))
        return QueryVectors(ids, found, np.concatenate(instances), np.concatenate(whole))

    def embed_views(
        self,
        queries: FeatureSet,
        rows: Sequence[int],
        views: Sequence[Sequence[Regions]],
        found: Sequence[Instances],
        whole: Float32[np.ndarray, "Q D"],
    ) -> QueryVectors:
        """Vectors of some of a feature set's queries from views that were found in another way.

        `views[q]` are those of the query in `rows[q]`, `found[q]` where they are, and `whole[q]`
        its photo's vector, which does not depend on either.
        """
        chosen = queries.rows.iloc[list(rows)]
        asked = [
            _Query(query, caption, list(of_query))
            for query, caption, of_query in zip(chosen["id"], chosen["caption"], views, strict=True)
        ]
        batches = track(range(0, len(asked), QUERY_BATCH), "embedding other views")
        vectors = [self._encode(asked[start : start + QUERY_BATCH]) for start in batches]
        ids = chosen["id"].tolist()
        return QueryVectors(ids, list(found), np.concatenate(vectors), whole)

    def _encode(self, batch: Sequence["_Query"]) -> Float32[np.ndarray, "I D"]:
        """Vectors of all views of some queries, one query after the other."""
        titles = [query.caption for query in batch for _ in query.views]
        try:
            return self.encoder.vectors(titles, [view for query in batch for view in query.views])
        except _FAILURES:
            for query in batch:  # alone, to learn whose fault it is
                with _naming(query.id):
                    self.encoder.vectors([query.caption] * len(query.views), query.views)
            raise


@dataclass(frozen=True)
class _Query:
    id: str
    caption: str
    views: list[Regions]
    """The whole photo and its instances."""


_FAILURES = (Product1MError, ValueError, RuntimeError, IndexError, TypeError)


@contextmanager
def _naming(query: str) -> Iterator[None]:
    """Say which query it was that could not be answered."""
    try:
        yield
    except _FAILURES as error:
        raise RetrievalError(f"query {query}: {error}") from error


def _check(regions: Regions) -> None:
    """RetrievalError where a photo has no region or a feature is not a number."""
    if not len(regions):
        raise RetrievalError("no region, not even the whole photo; run feature_extraction again")
    if not (np.isfinite(regions.features).all() and np.isfinite(regions.boxes_xyxy).all()):
        raise RetrievalError(
            "a region's feature or box is not a finite number; run feature_extraction again"
        )
