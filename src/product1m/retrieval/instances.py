"""The products in a query photo: regions reduced to instances, and each instance as a view."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from product1m.data.geometry import BoxSelection, select_boxes
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


def find_instances(regions: Regions, selection: BoxSelection) -> Instances:
    """Regions after a score threshold and NMS, the best of them.

    Where nothing is left the whole photo is the only instance (ours).
    """
    scores = regions.scores.astype(np.float32).copy()
    scores[0] = -1.0  # the whole photo is no product
    kept = select_boxes(regions.boxes_xyxy, scores, selection)
    if not len(kept):
        kept = np.zeros(1, np.int64)
    return Instances(kept, regions.boxes_xyxy[kept], regions.scores[kept])
