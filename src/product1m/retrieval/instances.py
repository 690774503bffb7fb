"""The products in a query photo: regions reduced to instances, and each instance as a view."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from product1m.config import EvaluationConfig
from product1m.data.regions import Regions


@dataclass(frozen=True)
class Instances:
    """What is searched for in one photo, by falling score."""

    rows: Int64[np.ndarray, " I"]
    """Which of the photo's regions they are; 0 is the whole photo."""
    boxes_xyxy: Float32[np.ndarray, "I 4"]
    """Absolute pixels of the stored photo."""
    scores: Float32[np.ndarray, " I"]
    """Objectness in 0 … 1."""

    def __len__(self) -> int:
        return len(self.rows)

    def views(self, regions: Regions) -> list[Regions]:
        """Each instance as a photo of its own; the whole photo as it is."""
        return [
            regions.instance(regions.boxes_xyxy[row], regions.features[row]) if row else regions
            for row in self.rows
        ]


def find_instances(regions: Regions, config: EvaluationConfig) -> Instances:
    """Regions after a score threshold and NMS, the best `max_instances` of them.

    Where nothing is left the whole photo is the only instance (ours).
    """
    scores = regions.scores.astype(np.float32).copy()
    scores[0] = -1.0  # the whole photo is no product
    confident = np.flatnonzero(scores >= config.instance_min_score)
    kept = confident[
        suppress(regions.boxes_xyxy[confident], scores[confident], config.instance_nms_iou)
    ][: config.max_instances]
    if not len(kept):
        kept = np.zeros(1, np.int64)
    return Instances(kept, regions.boxes_xyxy[kept], regions.scores[kept])


def suppress(
    boxes_xyxy: Float32[np.ndarray, "R 4"], scores: Float32[np.ndarray, " R"], max_iou: float
) -> Int64[np.ndarray, " K"]:
    """Greedy NMS: row numbers of the boxes kept, by falling score; equals keep their order."""
    overlaps = pairwise_iou(boxes_xyxy)
    kept: list[int] = []
    for row in np.argsort(-scores, kind="stable"):
        if not (overlaps[row, kept] > max_iou).any():
            kept.append(int(row))
    return np.array(kept, np.int64)


def pairwise_iou(
    boxes_xyxy: Float32[np.ndarray, "R 4"], others_xyxy: Float32[np.ndarray, "S 4"] | None = None
) -> Float32[np.ndarray, "R S"]:
    """Intersection over union of every two boxes, of one set or two; 0 without area."""
    others = boxes_xyxy if others_xyxy is None else others_xyxy
    low = np.maximum(boxes_xyxy[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes_xyxy[:, None, 2:], others[None, :, 2:])
    common = np.prod(np.clip(high - low, 0, None), axis=2)
    areas, other_areas = (
        np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1)
        for boxes in (boxes_xyxy, others)
    )
    union = areas[:, None] + other_areas[None, :] - common
    return np.asarray(common / np.maximum(union, 1e-6), dtype=np.float32)
