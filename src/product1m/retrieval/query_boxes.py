"""The boxes of a query photo that search the gallery, each as a photo of its own."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from product1m.data.geometry import BoxSelection
from product1m.data.regions import Regions


@dataclass(frozen=True)
class QueryBoxes:
    """The boxes of one photo that search the gallery, by descending detector score."""

    rows: Int64[np.ndarray, " I"]
    """Rows of the boxes among the photo's regions; 0 is the whole photo."""
    boxes_xyxy: Float32[np.ndarray, "I 4"]
    """Absolute pixels of the stored photo."""
    scores: Float32[np.ndarray, " I"]
    """Detector scores, 0 to 1."""

    @property
    def shown(self) -> slice:
        """The boxes that users see; none if no product was found in the photo."""
        return slice(0, 0) if list(self.rows) == [0] else slice(None)

    @property
    def num_shown(self) -> int:
        """Number of boxes that users see."""
        return len(self.rows[self.shown])

    def __len__(self) -> int:
        return len(self.rows)

    def views(self, regions: Regions) -> list[Regions]:
        """Each box as a photo of its own; the whole photo unchanged."""
        return [
            regions.instance(regions.boxes_xyxy[row], regions.features[row]) if row else regions
            for row in self.rows
        ]


def choose_boxes(regions: Regions, selection: BoxSelection) -> QueryBoxes:
    """The regions left after a score threshold and NMS, at most as many as `selection` allows.

    If none is left, the whole photo searches the gallery, but is not shown as a product (ours).
    """
    kept = regions.products(selection)
    if not len(kept):
        kept = np.zeros(1, np.int64)
    return QueryBoxes(kept, regions.boxes_xyxy[kept], regions.scores[kept])
