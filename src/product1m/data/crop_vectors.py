"""Vectors of products that were cut out of their photos, for the block `crop`.

A feature set whose products were encoded holds `crops.arrow`, an uncompressed Arrow file with one
row per item, in the order of `items.parquet`: `boxes` (float32 pixels: x1, y1, x2, y2, …) and
`vectors` (float16, box by box, each of unit length). The file is mapped, not loaded, so memory does
not grow with the number of items.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float16, Float32

from product1m.data.arrow_rows import RowWriter
from product1m.data.geometry import Boxes, pairwise_iou

CROPS = "crops.arrow"
DETAILS = "crop"
"""Key in the details of features and of an index: facts about the encoder."""
ENCODER_WEIGHTS, ENCODER_RECIPE = ENCODER_FILES = ("crop_encoder.safetensors", "crop_encoder.json")
"""The encoder itself, in the gallery's features and in its index, unless the RPN has it."""
SCHEMA = pa.schema([("boxes", pa.binary()), ("vectors", pa.binary())])
ROWS_PER_BATCH = 256
"""Items of one Arrow batch: some megabytes (ours)."""
MIN_IOU = 0.9
"""A box that was not encoded takes the vector of the nearest box that was, from this IoU (ours)."""


@dataclass(frozen=True)
class CropVectors:
    """The encoded boxes of one photo.

    The first one stands for the photo itself: the product of a gallery photo, or a query's whole
    photo.
    """

    boxes_xyxy: Boxes
    """Absolute pixels of the stored photo."""
    vectors: Float16[np.ndarray, "K D"]
    """Each of unit length."""

    def __len__(self) -> int:
        return len(self.boxes_xyxy)

    def at(self, box_xyxy: Float32[np.ndarray, "4"]) -> Float16[np.ndarray, " D"] | None:
        """The vector of a box, or of the encoded box nearest to it; None if none is near."""
        if not len(self):
            return None
        overlaps = pairwise_iou(self.boxes_xyxy, box_xyxy[None])[:, 0]
        nearest = int(overlaps.argmax())
        return self.vectors[nearest] if overlaps[nearest] >= MIN_IOU else None


NO_CROPS = CropVectors(np.empty((0, 4), np.float32), np.empty((0, 0), np.float16))


class CropWriter(RowWriter):
    """Writes the encoded boxes of photos in the order of the item table."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / CROPS, SCHEMA, ROWS_PER_BATCH)

    def add(self, crops: CropVectors) -> None:
        """Append the next photo's boxes."""
        boxes, vectors = crops.boxes_xyxy.astype("<f4"), crops.vectors.astype("<f2")
        self.add_row({"boxes": boxes.tobytes(), "vectors": vectors.tobytes()})


class CropTable:
    """The encoded boxes of a feature set's items; read from the mapped file when they are used."""

    def __init__(self, path: Path) -> None:
        self._reader = pa.ipc.open_file(pa.memory_map(str(path)))

    def __getitem__(self, position: int) -> CropVectors:
        batch = self._reader.get_batch(position // ROWS_PER_BATCH)
        row = position % ROWS_PER_BATCH
        boxes, vectors = (batch[name][row].as_buffer() for name in ("boxes", "vectors"))
        boxes_xyxy = np.frombuffer(boxes, "<f4").reshape(-1, 4)
        if not len(boxes_xyxy):
            return NO_CROPS
        return CropVectors(boxes_xyxy, np.frombuffer(vectors, "<f2").reshape(len(boxes_xyxy), -1))
