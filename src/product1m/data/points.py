"""Local features of photos: points that can be found again in another photo of the same product.

A feature set with points holds `points.arrow`, an uncompressed Arrow file with one row per item, in
the order of `items.parquet`: `points` (float32 pixels: x, y, x, y, …), `descriptors` (128 bytes a
point), `colors` (2 bytes a point), `width` and `height` of the photo, `chroma` (2 bytes a pixel of
a small copy of the photo) and `chroma_width`. The file is mapped, not loaded, so memory does not
grow with the number of items. An index has the same file for its gallery. A catalogue, of which few
items change a day, has `points-00000.arrow`, `points-00001.arrow` and so on instead, whose rows
follow each other.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, UInt8

from product1m.artifacts.folder import Artifact
from product1m.data.arrow_rows import RowWriter

POINTS, POINT_SHARDS = "points.arrow", "points-*.arrow"
SCHEMA = pa.schema(
    [
        ("points", pa.binary()),
        ("descriptors", pa.binary()),
        ("colors", pa.binary()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("chroma", pa.binary()),
        ("chroma_width", pa.int32()),
    ]
)
DESCRIPTOR_BYTES = 128
ROWS_PER_BATCH = 64
"""Items of one Arrow batch: some megabytes (ours)."""


@dataclass(frozen=True)
class Points:
    """Points of a photo. Their order is fixed, because the result of matching depends on it."""

    points_xy: Float32[np.ndarray, "P 2"]
    """Pixels of the photo."""
    descriptors: UInt8[np.ndarray, "P 128"]
    """Square roots of SIFT descriptors, scaled so that each has a length of about 512."""
    size_px: tuple[int, int]
    """Width and height of the photo."""
    colors: UInt8[np.ndarray, "P 2"] | None = None
    """Values a and b of CIELAB around each point, plus 128; None in files without colors."""
    chroma: UInt8[np.ndarray, "h w 2"] | None = None
    """The same values for the pixels of a small copy of the photo; None in files without it."""
    area_xyxy: Float32[np.ndarray, "4"] | None = None
    """The box that the points lie in, in pixels of the photo; None for the whole photo."""

    def __len__(self) -> int:
        return len(self.points_xy)

    def inside(self, box_xyxy: Float32[np.ndarray, "4"]) -> "Points":
        """The points that lie in a box."""
        low, high = box_xyxy[:2], box_xyxy[2:]
        rows = ((self.points_xy >= low) & (self.points_xy <= high)).all(axis=1)
        colors = self.colors[rows] if self.colors is not None else None
        return replace(
            self,
            points_xy=self.points_xy[rows],
            descriptors=self.descriptors[rows],
            colors=colors,
            area_xyxy=box_xyxy,
        )


NO_POINTS = Points(
    np.empty((0, 2), np.float32),
    np.empty((0, DESCRIPTOR_BYTES), np.uint8),
    (0, 0),
    np.empty((0, 2), np.uint8),
)


class PointWriter(RowWriter):
    """Writes the points of photos in the order of the item table."""

    def __init__(self, folder: Path, name: str = POINTS) -> None:
        super().__init__(folder / name, SCHEMA, ROWS_PER_BATCH)

    def add(self, points: Points) -> None:
        """Append the next photo's points."""
        width, height = points.size_px
        self.add_row(
            {
                "points": points.points_xy.astype("<f4").tobytes(),
                "descriptors": points.descriptors.tobytes(),
                "colors": points.colors.tobytes() if points.colors is not None else None,
                "width": width,
                "height": height,
                "chroma": points.chroma.tobytes() if points.chroma is not None else None,
                "chroma_width": points.chroma.shape[1] if points.chroma is not None else None,
            }
        )


class PointTable:
    """The points of items; read from the mapped files when they are used. Threads may share it.

    Args:
        paths: the files, whose rows follow each other.
    """

    def __init__(self, *paths: Path) -> None:
        self._batches = [batch for path in paths for batch in _batches(path)]
        self._starts = list(accumulate((len(batch) for batch in self._batches), initial=0))

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, position: int) -> Points:
        if not 0 <= position < len(self):
            raise IndexError(position)
        number = bisect_right(self._starts, position) - 1
        batch, row = self._batches[number], position - self._starts[number]
        places, descriptors = (batch[name][row].as_buffer() for name in ("points", "descriptors"))
        return Points(
            np.frombuffer(places, "<f4").reshape(-1, 2),
            np.frombuffer(descriptors, np.uint8).reshape(-1, DESCRIPTOR_BYTES),
            (batch["width"][row].as_py(), batch["height"][row].as_py()),
            _colors(batch, row),
            _chroma(batch, row),
        )


def point_files(artifact: Artifact) -> list[str]:
    """Names of an artifact's files of points, in the order of their rows; none without points."""
    return [POINTS] if POINTS in artifact.manifest.files else artifact.names(POINT_SHARDS)


def open_points(artifact: Artifact) -> PointTable | None:
    """The points of an artifact's items, verified; None if it has none."""
    names = point_files(artifact)
    return PointTable(*(artifact.file(name) for name in names)) if names else None


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(path)) as mapped, pa.ipc.open_file(mapped) as reader:
        yield from (reader.get_batch(number) for number in range(reader.num_record_batches))


def _colors(batch: pa.RecordBatch, row: int) -> UInt8[np.ndarray, "P 2"] | None:
    stored = batch["colors"][row].as_buffer() if "colors" in batch.schema.names else None
    return np.frombuffer(stored, np.uint8).reshape(-1, 2) if stored is not None else None


def _chroma(batch: pa.RecordBatch, row: int) -> UInt8[np.ndarray, "h w 2"] | None:
    stored = batch["chroma"][row].as_buffer() if "chroma" in batch.schema.names else None
    if stored is None:
        return None
    return np.frombuffer(stored, np.uint8).reshape(-1, batch["chroma_width"][row].as_py(), 2)
