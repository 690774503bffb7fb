"""Lines of text that are printed in photos, and which of them belong to a box.

If printed text was read, a feature set holds `lines.arrow`, an uncompressed Arrow file with one row
per item, in the order of `items.parquet`: `quads` (8 numbers a line: x and y of four corners, in
pixels), `texts` and `scores`. The file is mapped, not loaded, so memory does not grow with the
number of items.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import cv2
import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int64

from product1m.data.arrow_rows import RowWriter

LINES = "lines.arrow"
SCHEMA = pa.schema(
    [
        ("quads", pa.list_(pa.float32())),
        ("texts", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float32())),
    ]
)
ROWS_PER_BATCH = 1024
"""Items of one Arrow batch (ours)."""
MIN_INSIDE = 0.5
"""A line belongs to the boxes that hold at least this share of it (ours)."""

Quads = Float32[np.ndarray, "L 4 2"]
"""Corners in pixels: top left, top right, bottom right, bottom left, seen in reading direction."""


@dataclass(frozen=True)
class PrintedLines:
    """Lines of text in a photo."""

    quads_xy: Quads
    """Pixels of the photo."""
    texts: tuple[str, ...]
    scores: Float32[np.ndarray, " L"]
    """How sure the text reader is, 0 to 1; wrong texts often have 0.7 to 0.8."""

    @classmethod
    def none(cls) -> Self:
        """No lines."""
        return cls(np.empty((0, 4, 2), np.float32), (), np.empty(0, np.float32))

    def __len__(self) -> int:
        return len(self.texts)

    def select(self, rows: Sequence[int] | Int64[np.ndarray, " n"]) -> "PrintedLines":
        """Some of the lines."""
        chosen = np.asarray(rows, np.int64)
        texts = tuple(self.texts[row] for row in chosen)
        return PrintedLines(self.quads_xy[chosen], texts, self.scores[chosen])

    def inside(self, box_xyxy: Float32[np.ndarray, "4"]) -> "PrintedLines":
        """The lines that belong to a box, in their order here."""
        return self.select(np.flatnonzero(shares_inside(self.quads_xy, box_xyxy) >= MIN_INSIDE))


NO_LINES = PrintedLines.none()


def shares_inside(quads_xy: Quads, box_xyxy: Float32[np.ndarray, "4"]) -> Float32[np.ndarray, " L"]:
    """Share of each quadrilateral's area inside a box; 0 for one without area."""
    left, top, right, bottom = np.asarray(box_xyxy, np.float32).tolist()
    frame = np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float32)
    return np.array([_shared(quad, frame) for quad in quads_xy], np.float32)


def _shared(quad: Float32[np.ndarray, "4 2"], other: Float32[np.ndarray, "4 2"]) -> float:
    """Share of a quadrilateral's area that another one covers."""
    hull = cv2.convexHull(np.ascontiguousarray(quad, np.float32))
    area = cv2.contourArea(hull)
    if area <= 0:
        return 0.0
    common, _ = cv2.intersectConvexConvex(hull, cv2.convexHull(other))
    return float(common / area)


def without_repeats(lines: PrintedLines) -> PrintedLines:
    """Of lines that cover each other, keep the longest text; of equal lengths, the highest score.

    A photo that is read at several sizes gives most of its lines more than once. The order stays.
    """
    ranked = sorted(
        range(len(lines)), key=lambda row: (-lines.scores[row] * len(lines.texts[row]), row)
    )
    kept: list[int] = []
    for row in ranked:
        quad = lines.quads_xy[row]
        if all(
            max(_shared(quad, lines.quads_xy[other]), _shared(lines.quads_xy[other], quad))
            < MIN_INSIDE
            for other in kept
        ):
            kept.append(row)
    return lines.select(sorted(kept))


def joined(parts: Sequence[PrintedLines]) -> PrintedLines:
    """All lines of several readings of one photo."""
    return PrintedLines(
        np.concatenate([NO_LINES.quads_xy, *(part.quads_xy for part in parts)]),
        tuple(text for part in parts for text in part.texts),
        np.concatenate([NO_LINES.scores, *(part.scores for part in parts)]),
    )


class LineWriter(RowWriter):
    """Writes the lines of photos in the order of the item table."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / LINES, SCHEMA, ROWS_PER_BATCH)

    def add(self, lines: PrintedLines) -> None:
        """Append the next photo's lines."""
        quads = lines.quads_xy.ravel().tolist()
        self.add_row({"quads": quads, "texts": list(lines.texts), "scores": lines.scores.tolist()})


class LineTable:
    """The lines of a feature set's items; read from the mapped file when they are used."""

    def __init__(self, path: Path) -> None:
        self._reader = pa.ipc.open_file(pa.memory_map(str(path)))

    def __getitem__(self, position: int) -> PrintedLines:
        batch = self._reader.get_batch(position // ROWS_PER_BATCH)
        row = batch.slice(position % ROWS_PER_BATCH, 1).to_pylist()[0]
        quads = np.array(row["quads"], np.float32).reshape(-1, 4, 2)
        return PrintedLines(quads, tuple(row["texts"]), np.array(row["scores"], np.float32))
