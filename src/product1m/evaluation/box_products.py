"""Which product each box of a query shows, as far as the data set has labels."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from product1m.data.geometry import Boxes
from product1m.evaluation.detection_quality import products_at
from product1m.evaluation.metrics import GroundTruth
from product1m.evaluation.variants import TrueBoxes
from product1m.retrieval.query_vectors import QueryVectors


def box_products(
    queries: QueryVectors, true_boxes: TrueBoxes, truth: GroundTruth
) -> list[list[list[str]]]:
    """For each box of each query the labels that are right for it.

    A box that lies on no product has none. If the data set has no labels for the true boxes of a
    query, every label of the query is right for its boxes.

    Args:
        queries: queries with their boxes.
        true_boxes: true boxes of the same queries, in their order.
        truth: labels of the queries.
    """
    known = zip(
        queries.query_ids, queries.boxes, true_boxes.boxes_xyxy, true_boxes.labels, strict=True
    )
    return [
        [_products(box, list(truth.query_labels[query]), true, names) for box in boxes.boxes_xyxy]
        for query, boxes, true, names in known
    ]


def _products(
    box_xyxy: Float32[np.ndarray, "4"],
    labels: list[str],
    true_xyxy: Boxes,
    true_labels: Sequence[str] | None,
) -> list[str]:
    if true_labels is not None:
        return products_at(box_xyxy, true_xyxy, true_labels)
    lies_on_one = not len(true_xyxy) or products_at(box_xyxy, true_xyxy, [""] * len(true_xyxy))
    return labels if lies_on_one else []
