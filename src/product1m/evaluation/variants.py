"""The same queries with other boxes or vectors, to measure the losses by detection and pooling.

`oracle_boxes` searches with the true boxes. `instance_crops` searches with the detected boxes, each
cut out of its photo and encoded again at the network's full size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from product1m.artifacts.folder import Artifact
from product1m.config import FeatureExtractionConfig
from product1m.data.boxes import LABEL
from product1m.data.geometry import CORNERS, Boxes
from product1m.data.items import ItemTable
from product1m.data.regions import FeatureSet
from product1m.retrieval.query_boxes import QueryBoxes
from product1m.retrieval.query_vectors import QueryVectors
from product1m.retrieval.search import Searcher
from product1m.telemetry.progress import track

NO_REGION = -1
"""Stands for a region's row, because a true box is none of the photo's regions."""


@dataclass(frozen=True)
class QueryVariants:
    """The queries in every variant; None for one that is not available."""

    detected: QueryVectors
    """The detected boxes, as shipped, and the whole photo."""
    oracle_boxes: QueryVectors | None
    instance_crops: QueryVectors | None

    def select(self, rows: Sequence[int]) -> "QueryVariants":
        """Some of the queries."""
        return QueryVariants(
            self.detected.select(rows),
            self.oracle_boxes.select(rows) if self.oracle_boxes else None,
            self.instance_crops.select(rows) if self.instance_crops else None,
        )


@dataclass(frozen=True)
class TrueBoxes:
    """True boxes of products, for queries that have them."""

    boxes_xyxy: list[Boxes]
    """Per query, in pixels of its stored photo; empty if unknown."""
    features: list[np.ndarray]
    """Region vectors at the boxes."""
    labels: list[list[str] | None]
    """Per query the label of each box; None if the data set has none."""

    @property
    def num_known(self) -> int:
        """Number of queries with boxes."""
        return sum(len(boxes) > 0 for boxes in self.boxes_xyxy)

    def select(self, rows: Sequence[int]) -> "TrueBoxes":
        """The true boxes of some of the queries."""
        return TrueBoxes(
            [self.boxes_xyxy[row] for row in rows],
            [self.features[row] for row in rows],
            [self.labels[row] for row in rows],
        )

    @property
    def num_labeled(self) -> int:
        """Number of queries whose boxes have labels."""
        return sum(labels is not None for labels in self.labels)

    @property
    def complete(self) -> bool:
        """Whether every query has boxes; otherwise methods would be compared on other queries."""
        return self.num_known == len(self.boxes_xyxy)


def true_boxes(queries: FeatureSet) -> TrueBoxes:
    """The boxes that came with a data set's queries."""
    known = TrueBoxes(
        [np.empty((0, 4), np.float32)] * len(queries),
        [np.empty((0, queries.feature_dim), np.float16)] * len(queries),
        [None] * len(queries),
    )
    if queries.has_instances:
        table, vectors = queries.instances()
        corners = table[list(CORNERS)].to_numpy(np.float32)
        names = table[LABEL].tolist() if LABEL in table else [""] * len(table)
        for scene, rows in table.groupby("scene").indices.items():
            query = int(str(scene))
            known.boxes_xyxy[query], known.features[query] = corners[rows], vectors[rows]
            labels = [names[row] for row in rows]
            known.labels[query] = labels if all(labels) else None
    return known


def embed_queries(searcher: Searcher, queries: FeatureSet, boxes: TrueBoxes) -> QueryVariants:
    """Embed the queries from their region vectors, also at the true boxes if all are known."""
    detected = searcher.embed(queries)
    at_boxes = _at_true_boxes(searcher, queries, boxes, detected) if boxes.complete else None
    return QueryVariants(detected, at_boxes, None)


def _at_true_boxes(
    searcher: Searcher, queries: FeatureSet, boxes: TrueBoxes, detected: QueryVectors
) -> QueryVectors:
    views, places = [], []
    for query, (corners, vectors) in enumerate(zip(boxes.boxes_xyxy, boxes.features, strict=True)):
        regions = queries.regions(query)
        views.append([regions.instance(*pair) for pair in zip(corners, vectors, strict=True)])
        rows = np.full(len(corners), NO_REGION, np.int64)
        places.append(QueryBoxes(rows, corners, np.ones(len(corners), np.float32)))
    every = range(len(queries))
    return searcher.embed_views(queries, every, views, places, detected)


def with_crops(
    variants: QueryVariants,
    searcher: Searcher,
    queries: FeatureSet,
    rows: Sequence[int],
    photos: ItemTable,
    rpn: Artifact,
) -> QueryVariants:
    """Add the variant `instance_crops` to the variants of the queries in some rows.

    Only the vector of a box comes from its crop; the regions inside it still come from the photo.
    """
    # The detector's libraries are imported only if crops are encoded.
    from product1m.detection.crops import encode_crops
    from product1m.detection.extraction import RegionSettings
    from product1m.detection.proposals import load_rpn

    network = load_rpn(rpn)
    section = FeatureExtractionConfig.model_validate(queries.artifact.manifest.config)
    settings = RegionSettings.from_config(section, grabcut=None)
    detected, views = variants.detected, []
    for row, boxes in zip(track(rows, "encoding crops"), detected.boxes, strict=True):
        regions = queries.regions(row)
        if boxes.rows[0] == 0:
            views.append([regions])  # the whole photo is the only box
            continue
        vectors = encode_crops(network, photos.photo(row), boxes.boxes_xyxy, settings)
        pairs = zip(boxes.boxes_xyxy, vectors, strict=True)
        views.append([regions.instance(*pair) for pair in pairs])
    crops = searcher.embed_views(queries, rows, views, detected.boxes, detected)
    return replace(variants, instance_crops=crops)
