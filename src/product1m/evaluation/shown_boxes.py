"""The boxes that a user sees in query photos, with their answers."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from product1m.data.geometry import CORNERS
from product1m.evaluation.detection_quality import PhotoBoxes
from product1m.evaluation.metrics import GroundTruth
from product1m.evaluation.variants import TrueBoxes
from product1m.retrieval.query_vectors import QueryVectors
from product1m.retrieval.search import Searcher


def shown_boxes(
    searcher: Searcher,
    queries: QueryVectors,
    weights: Mapping[str, float],
    truth: GroundTruth,
    true_boxes: TrueBoxes,
    all_known: bool,
) -> list[PhotoBoxes]:
    """The detected boxes of some queries, with the true boxes and labels.

    Args:
        searcher: ranks the gallery.
        queries: queries with their detected boxes.
        weights: weights of the blocks.
        truth: labels of queries and gallery items.
        true_boxes: true boxes of the same queries, in their order.
        all_known: whether the true boxes of every query of the data set are known.
    """
    rankings = searcher.rank_boxes(queries, weights)
    return [
        PhotoBoxes(
            boxes.boxes_xyxy[boxes.shown],
            [[truth.gallery_label[item] for item, _ in answers] for answers in own[boxes.shown]],
            len(truth.query_labels[query]),
            true_xyxy if all_known else None,
            labels,
        )
        for query, boxes, own, true_xyxy, labels in zip(
            queries.query_ids,
            queries.boxes,
            rankings,
            true_boxes.boxes_xyxy,
            true_boxes.labels,
            strict=True,
        )
    ]


def box_table(queries: QueryVectors) -> pd.DataFrame:
    """One row per shown box: query_id, corners in pixels of the stored photo, detector score."""
    corners = np.concatenate([boxes.boxes_xyxy[boxes.shown] for boxes in queries.boxes])
    table = pd.DataFrame(corners, columns=list(CORNERS))
    counts = [boxes.num_shown for boxes in queries.boxes]
    table.insert(0, "query_id", np.repeat(queries.query_ids, counts))
    scores = [boxes.scores[boxes.shown] for boxes in queries.boxes]
    return table.assign(score=np.concatenate(scores))
