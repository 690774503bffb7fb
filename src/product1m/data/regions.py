"""Region features: float16 vectors and float32 boxes in safetensors shards, read through mmap.

Row 0 of every item is its whole photo. Beside the shards, `regions.parquet` has one row per item,
in the order of `items.parquet`: `shard`, `start`, `count`, and `checksum`, the CRC-32 of its
vectors, boxes and scores, which verifies a row that is read alone.

A feature set of scenes also holds `instances.parquet`, one row per pasted product: `scene` (row
position of its scene in the item table), `source_id`, `x1`, `y1`, `x2`, `y2` (pixels), `visible`
(share), and its own region vector in `instances.safetensors`, in the same order. Queries with known
true boxes have the same two files without `source_id` and `visible`, but with `label`, empty if
unknown.
"""

import zlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Float16, Float32, Int, Int64
from safetensors import safe_open
from safetensors.numpy import save_file

from product1m.artifacts.folder import Artifact
from product1m.artifacts.shards import Shard
from product1m.artifacts.stored_tensors import StoredTensor, open_tensors
from product1m.data.crop_vectors import CROPS, NO_CROPS, CropTable, CropVectors
from product1m.data.geometry import BoxSelection, select_boxes, share_inside
from product1m.data.items import read_items
from product1m.data.points import NO_POINTS, POINTS, Points, PointTable
from product1m.data.printed_lines import LINES, NO_LINES, LineTable, PrintedLines
from product1m.errors import ArtifactError
from product1m.storage.base import agreed

REGIONS = "regions.parquet"
INSTANCES = "instances.parquet"
INSTANCE_FEATURES = "instances.safetensors"
SCHEMA = pa.schema(
    [
        ("shard", pa.string()),
        ("start", pa.int64()),
        ("count", pa.int64()),
        ("checksum", pa.uint32()),
    ]
)
TENSORS = ("features", "boxes", "scores")
"""Names of a shard's tensors."""
READERS = 32
"""Number of rows read at once if each is a request to storage (ours)."""


@dataclass(frozen=True)
class Regions:
    """The regions of one photo, the whole photo first, then by falling score."""

    features: Float[np.ndarray, "R F"]
    boxes_xyxy: Float32[np.ndarray, "R 4"]
    """Absolute pixels of the stored photo."""
    scores: Float32[np.ndarray, " R"]
    """Detector scores in 0 … 1; 1 for the whole photo."""
    lines: PrintedLines = NO_LINES
    """Text printed in the photo, if it was read."""
    points: Points = NO_POINTS
    """Local features of the photo, if they were computed."""
    crops: CropVectors = NO_CROPS
    """The photo's boxes that were cut out and encoded by themselves, if any were."""

    def __len__(self) -> int:
        return len(self.scores)

    def products(self, selection: BoxSelection) -> Int64[np.ndarray, " K"]:
        """Rows of the regions that count as products, by falling score; not the whole photo."""
        scores = self.scores.astype(np.float32).copy()
        scores[0] = -1.0
        return select_boxes(self.boxes_xyxy, scores, selection)

    def positions(self) -> Float32[np.ndarray, "R 5"]:
        """x1, y1, x2, y2 and area relative to the first region's box, clipped to it.

        (released code)
        """
        left, top, right, bottom = self.boxes_xyxy[0]
        size = np.maximum(np.array([right - left, bottom - top] * 2, np.float32), 1e-6)
        corners = np.clip((self.boxes_xyxy - np.array([left, top] * 2, np.float32)) / size, 0, 1)
        area = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
        return np.concatenate([corners, area[:, None]], axis=1).astype(np.float32)

    def instance(
        self, box_xyxy: Float32[np.ndarray, "4"], feature: Float[np.ndarray, " F"]
    ) -> "Regions":
        """A box as a photo of its own: the box first, then the regions inside it (ours)."""
        inside = regions_inside(self.boxes_xyxy, box_xyxy)
        return Regions(
            np.concatenate([feature[None], self.features[inside]]),
            np.concatenate([box_xyxy[None], self.boxes_xyxy[inside]]).astype(np.float32),
            np.concatenate([np.ones(1, np.float32), self.scores[inside]]),
            self.lines.inside(box_xyxy),
            self.points.inside(box_xyxy),
            self.crops,
        )


def regions_inside(
    boxes_xyxy: Float32[np.ndarray, "R 4"],
    frame_xyxy: Float32[np.ndarray, "4"],
    min_inside: float = 0.8,
) -> Int[np.ndarray, " I"]:
    """Rows of the regions with at least `min_inside` of their area in a frame; never row 0."""
    inside = np.flatnonzero(share_inside(boxes_xyxy, frame_xyxy) >= min_inside)
    return inside[inside > 0]


class RegionWriter:
    """Appends photos' regions to shards and writes their table at the end of the block.

    `store` receives every finished shard.
    """

    def __init__(
        self, folder: Path, shard_mib: int = 256, store: Callable[[Path], None] | None = None
    ) -> None:
        self._folder = folder
        self._shard_limit = shard_mib << 20
        self._store = store
        self._pending: list[Regions] = []
        self._pending_bytes = 0
        self._num_shards = 0
        self._table: pq.ParquetWriter | None = None

    def add(self, regions: Regions) -> None:
        """Append the next item's regions, in the order of the item table."""
        num_bytes = regions.features.size * 2 + len(regions) * 20
        if self._pending and self._pending_bytes + num_bytes > self._shard_limit:
            self._flush()
        self._pending.append(regions)
        self._pending_bytes += num_bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
        if self._table is not None:
            self._table.close()

    def _flush(self) -> None:
        shard = f"regions-{self._num_shards:05d}.safetensors"
        counts = np.array([len(regions) for regions in self._pending], np.int64)
        rows = {
            "shard": [shard] * len(counts),
            "start": counts.cumsum() - counts,
            "count": counts,
            "checksum": [_checksum(regions) for regions in self._pending],
        }
        if self._table is None:
            self._table = pq.ParquetWriter(self._folder / REGIONS, SCHEMA)
        self._table.write_table(pa.table(rows, SCHEMA))
        if self._pending:
            tensors: dict[str, np.ndarray] = {
                "features": np.concatenate([r.features for r in self._pending]).astype(np.float16),
                "boxes": np.concatenate([r.boxes_xyxy for r in self._pending]).astype(np.float32),
                "scores": np.concatenate([r.scores for r in self._pending]).astype(np.float32),
            }
            save_file(tensors, self._folder / shard)
            if self._store is not None:
                self._store(self._folder / shard)
            self._num_shards += 1
            self._pending, self._pending_bytes = [], 0


def write_instances(
    folder: Path, instances: pd.DataFrame, features: Float16[np.ndarray, "I F"]
) -> None:
    """Write the pasted products of a scene set with their own region vectors, row for row."""
    pq.write_table(pa.Table.from_pandas(instances, preserve_index=False), folder / INSTANCES)
    save_file(
        {"features": np.ascontiguousarray(features.astype(np.float16))}, folder / INSTANCE_FEATURES
    )


class FeatureSet:
    """The regions of an artifact's items; shards stay on disk until a row is read."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self._regions = _read_regions(artifact)
        self.rows: pd.DataFrame = read_items(artifact)
        self._shards: dict[str, Any] = {}
        self._lines = LineTable(artifact.file(LINES)) if self.has_lines else None
        self._points = PointTable(artifact.file(POINTS)) if self.has_points else None
        self._crops = CropTable(artifact.file(CROPS)) if self.has_crops else None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def has_lines(self) -> bool:
        """Whether the text printed in the photos was read."""
        return LINES in self.artifact.manifest.files

    @property
    def has_points(self) -> bool:
        """Whether the photos' points were computed."""
        return POINTS in self.artifact.manifest.files

    @property
    def has_crops(self) -> bool:
        """Whether boxes were cut out and encoded by themselves."""
        return CROPS in self.artifact.manifest.files

    @property
    def feature_dim(self) -> int:
        """F, the width of a region vector."""
        return int(self.artifact.manifest.details["feature_dim"])

    def regions(self, position: int) -> Regions:
        """The regions of the item at a row position, read from its shard."""
        row = self._regions.iloc[position]
        shard = self._shard(str(row["shard"]))
        rows = slice(int(row["start"]), int(row["start"] + row["count"]))

        lines, points, crops = self.lines(position), self.points(position), self.crops(position)

        def read() -> Regions:
            features, boxes, scores = (shard[name][rows] for name in TENSORS)
            return Regions(features, boxes, scores, lines, points, crops)

        if not isinstance(shard["features"], StoredTensor):
            return read()
        regions = agreed(read, _checksum, int(row["checksum"]))
        if _checksum(regions) != row["checksum"]:
            raise ArtifactError(
                f"{shard['features'].shard.address}: damaged: the regions of item "
                f"{self.rows['id'].iloc[position]}, expected CRC-32 {row['checksum']:08x}, got "
                f"{_checksum(regions):08x}; run {self.artifact.manifest.step} again"
            )
        return regions

    def lines(self, position: int) -> PrintedLines:
        """Text printed in the photo of the item at a row position; none if it was not read."""
        return self._lines[position] if self._lines else NO_LINES

    def points(self, position: int) -> Points:
        """The points of the photo of the item at a row position; none if they were not computed."""
        return self._points[position] if self._points else NO_POINTS

    def crops(self, position: int) -> CropVectors:
        """The encoded boxes of the item at a row position; none if no box was encoded."""
        return self._crops[position] if self._crops else NO_CROPS

    def many(self, positions: Iterable[int]) -> list[Regions]:
        """The regions of several items; read in parallel if each is a request to storage."""
        if self.artifact.is_here:
            return [self.regions(position) for position in positions]
        with ThreadPoolExecutor(READERS, "regions") as pool:
            return list(pool.map(self.regions, positions))

    @property
    def has_instances(self) -> bool:
        """Whether the photos came with true boxes."""
        return INSTANCES in self.artifact.manifest.files

    def boxes_xyxy(self, position: int) -> Float32[np.ndarray, "R 4"]:
        """Only the boxes of an item's regions."""
        row = self._regions.iloc[position]
        stored = self._shard(str(row["shard"]))["boxes"]
        rows = slice(int(row["start"]), int(row["start"] + row["count"]))
        if not isinstance(stored, StoredTensor):
            boxes: Float32[np.ndarray, "R 4"] = stored[rows]
            return boxes
        return agreed(lambda: stored[rows], lambda boxes: boxes.tobytes())  # without a checksum

    def instances(self) -> tuple[pd.DataFrame, Float16[np.ndarray, "I F"]]:
        """The pasted products of a scene set and their region vectors, row for row."""
        frame: pd.DataFrame = pq.read_table(self.artifact.file(INSTANCES)).to_pandas()
        with safe_open(self.artifact.file(INSTANCE_FEATURES), "numpy") as file:
            return frame, file.get_tensor("features")

    def _shard(self, name: str) -> Mapping[str, Any]:
        if name not in self._shards:
            self._shards[name] = _tensors(self.artifact.shard(name))
        shard: Mapping[str, Any] = self._shards[name]
        return shard


def _read_regions(artifact: Artifact) -> pd.DataFrame:
    """The table of regions, with places in a shard as numbers of four bytes."""
    table = pq.read_table(
        artifact.file(REGIONS), pre_buffer=False, use_threads=False, read_dictionary=["shard"]
    )
    for name in ("start", "count"):
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, table[name].cast(pa.int32()))
    regions: pd.DataFrame = table.to_pandas(self_destruct=True, split_blocks=True)
    return regions


def _tensors(shard: Shard) -> Mapping[str, Any]:
    if shard.path is not None:
        try:
            file = safe_open(shard.path, "numpy")
            return {key: file.get_slice(key) for key in TENSORS}
        except FileNotFoundError:  # another process needed the space in scratch
            shard = replace(shard, path=None)
    return open_tensors(shard)


def _checksum(regions: Regions) -> int:
    """CRC-32 of a row as it is stored."""
    checksum = 0
    for array, dtype in (
        (regions.features, np.float16),
        (regions.boxes_xyxy, np.float32),
        (regions.scores, np.float32),
    ):
        checksum = zlib.crc32(np.ascontiguousarray(array, dtype).data, checksum)
    return checksum
