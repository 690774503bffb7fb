"""The same queries cut into views in other ways: what detection and pooling cost is told by them.

`oracle_boxes` takes the true boxes for the instances, `instance_crops` encodes every found instance
again, cut out of its photo, at the network's full size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32

from product1m.artifacts.folder import Artifact
from product1m.config import FeatureExtractionConfig
from product1m.data.geometry import CORNERS
from product1m.data.items import ItemTable
from product1m.data.regions import FeatureSet
from product1m.retrieval.instances import Instances
from product1m.retrieval.search import QueryVectors, Searcher
from product1m.telemetry.progress import track

NO_REGION = -1
"""In place of a region's row: a true box is none of the photo's regions."""
Boxes = Float32[np.ndarray, "K 4"]


@dataclass(frozen=True)
class QueryViews:
    """The queries in all ways of cutting them into views; None where one cannot be had."""

    found: QueryVectors
    """The instances that ship, and the whole photo."""
    oracle_boxes: QueryVectors | None
    instance_crops: QueryVectors | None

    def select(self, rows: Sequence[int]) -> "QueryViews":
        """Some of the queries."""
        return QueryViews(
            self.found.select(rows),
            self.oracle_boxes.select(rows) if self.oracle_boxes else None,
            self.instance_crops.select(rows) if self.instance_crops else None,
        )


@dataclass(frozen=True)
class TrueBoxes:
    """Where the products are, for the queries of a data set that knows."""

    boxes_xyxy: list[Boxes]
    """Of every query, in pixels of its stored photo; empty where they are not known."""
    features: list[np.ndarray]
    """Region vectors at the boxes."""

    @property
    def num_known(self) -> int:
        """Queries with boxes."""
        return sum(len(boxes) > 0 for boxes in self.boxes_xyxy)

    @property
    def complete(self) -> bool:
        """Every query has them, so that a method may use them on the same queries as the others."""
        return self.num_known == len(self.boxes_xyxy)


def true_boxes(queries: FeatureSet) -> TrueBoxes:
    """The boxes that came with a data set's queries."""
    nothing = np.empty((0, 4), np.float32), np.empty((0, queries.feature_dim), np.float16)
    by_query = [nothing] * len(queries)
    if queries.has_instances:
        table, vectors = queries.instances()
        corners = table[list(CORNERS)].to_numpy(np.float32)
        for query, rows in table.groupby("scene").indices.items():
            by_query[int(str(query))] = (corners[rows], vectors[rows])
    return TrueBoxes([boxes for boxes, _ in by_query], [vectors for _, vectors in by_query])


def query_views(searcher: Searcher, queries: FeatureSet, boxes: TrueBoxes) -> QueryViews:
    """Embed the queries from their region vectors, at the true boxes too where all are known."""
    found = searcher.embed(queries)
    at_boxes = _at_true_boxes(searcher, queries, boxes, found) if boxes.complete else None
    return QueryViews(found, at_boxes, None)


def _at_true_boxes(
    searcher: Searcher, queries: FeatureSet, boxes: TrueBoxes, found: QueryVectors
) -> QueryVectors:
    views, instances = [], []
    for query, (corners, vectors) in enumerate(zip(boxes.boxes_xyxy, boxes.features, strict=True)):
        regions = queries.regions(query)
        views.append([regions.instance(*pair) for pair in zip(corners, vectors, strict=True)])
        rows = np.full(len(corners), NO_REGION, np.int64)
        instances.append(Instances(rows, corners, np.ones(len(corners), np.float32)))
    return searcher.embed_views(queries, range(len(queries)), views, instances, found.whole)


def with_crops(
    views: QueryViews,
    searcher: Searcher,
    queries: FeatureSet,
    rows: Sequence[int],
    photos: ItemTable,
    rpn: Artifact,
) -> QueryViews:
    """Views of the queries in some rows, also with each instance's vector from its crop.

    The regions inside an instance stay the photo's.
    """
    # The detector's libraries load only where something is to be encoded.
    from product1m.detection.crops import encode_crops
    from product1m.detection.extraction import RegionSettings
    from product1m.detection.proposals import load_rpn

    network = load_rpn(rpn)
    section = FeatureExtractionConfig.model_validate(queries.artifact.manifest.config)
    settings = RegionSettings.from_config(section, grabcut=None)
    found, cut = views.found, []
    for row, instances in zip(track(rows, "encoding crops"), found.found, strict=True):
        regions = queries.regions(row)
        if instances.rows[0] == 0:
            cut.append([regions])  # the whole photo is the only instance
            continue
        vectors = encode_crops(network, photos.photo(row), instances.boxes_xyxy, settings)
        pairs = zip(instances.boxes_xyxy, vectors, strict=True)
        cut.append([regions.instance(*pair) for pair in pairs])
    crops = searcher.embed_views(queries, rows, cut, found.found, found.whole)
    return replace(views, instance_crops=crops)
