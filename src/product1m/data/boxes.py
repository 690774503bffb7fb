"""True boxes of the products in query photos, for data sets that have them.

JSON Lines hold them in `queries.jsonl`. Beside lists of either format a file `boxes.jsonl` may hold
them: one object per query with `id` and `boxes`, each `[x1, y1, x2, y2]` in pixels of the upright
photo. They measure the detection; no training uses them.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from product1m.data.geometry import CORNERS
from product1m.errors import DatasetError

BOXES_LIST = "boxes.jsonl"
BOXES = "boxes.parquet"
"""Beside an artifact's item table: one row per box, `item` is the row of its photo there."""
SCHEMA = pa.schema([("item", pa.int64()), *((corner, pa.float32()) for corner in CORNERS)])

Box = tuple[float, float, float, float]


class BoxError(ValueError):
    """A value that is not a list of boxes."""


def parse_boxes(value: Any) -> tuple[Box, ...]:
    """Boxes from JSON; BoxError with the first value that is not a box."""
    if not isinstance(value, list) or not value:
        raise BoxError(f"boxes: expected a list of [x1, y1, x2, y2], got {value!r:.80}")
    return tuple(_parse_box(box) for box in value)


def read_boxes(folder: Path) -> dict[str, tuple[Box, ...]]:
    """Boxes by item id from a data set's `boxes.jsonl`; empty without such a file.

    Raises DatasetError with the line that is not an id with its boxes.
    """
    path = folder / BOXES_LIST
    if not path.is_file():
        return {}
    known: dict[str, tuple[Box, ...]] = {}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
                item, boxes = str(value["id"]), parse_boxes(value["boxes"])
            except (ValueError, KeyError, TypeError) as error:
                raise DatasetError(
                    f'{path}:{number}: expected {{"id": …, "boxes": [[x1, y1, x2, y2], …]}}, '
                    f"got {line.strip()!r:.120} ({error})"
                ) from error
            if item in known:
                raise DatasetError(f"{path}:{number}: id {item} occurs twice")
            known[item] = boxes
    return known


def write_boxes(path: Path, boxes: Mapping[str, Sequence[Sequence[float]]]) -> None:
    """Write a `boxes.jsonl`."""
    rows = [{"id": item, "boxes": [list(box) for box in given]} for item, given in boxes.items()]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


class BoxTable:
    """Collects the boxes of an artifact's items and writes them if there are any."""

    def __init__(self) -> None:
        self._rows: list[dict[str, float]] = []
        self.num_items = 0

    def add(
        self, item: int, boxes: Sequence[Box], size_px: tuple[int, int], downscaled: float
    ) -> None:
        """Scale the boxes of the item at a row position to its stored photo, and clip them to it.

        `size_px` is the stored photo's width and height, `downscaled` its sides relative to the
        photo that `boxes` refer to.
        """
        corners = np.array(boxes, np.float64).reshape(-1, 4) * downscaled
        corners = corners.clip(0, np.array(size_px * 2, np.float64))
        inside = corners[(corners[:, 2:] - corners[:, :2]).min(axis=1, initial=np.inf) > 0]
        for row in inside.tolist():
            self._rows.append({"item": item, **dict(zip(CORNERS, row, strict=True))})
        self.num_items += bool(len(inside))

    def write(self, folder: Path) -> None:
        """Write the table; no file without boxes."""
        if self._rows:
            pq.write_table(pa.Table.from_pylist(self._rows, SCHEMA), folder / BOXES)


def _parse_box(box: Any) -> Box:
    numbers = box if isinstance(box, list) else []
    if len(numbers) != 4 or not all(_is_number(number) for number in numbers):
        raise BoxError(f"boxes: expected [x1, y1, x2, y2], got {box!r:.80}")
    x1, y1, x2, y2 = map(float, numbers)
    if not (x1 < x2 and y1 < y2):
        raise BoxError(f"boxes: {box!r:.80} has no area; expected x1 < x2 and y1 < y2")
    return (x1, y1, x2, y2)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
