"""True boxes of the products in query photos, for data sets that have them.

JSON Lines hold them in `queries.jsonl`. For lists of either format, a file `boxes.jsonl` may hold
them: one object per query with `id` and `boxes`, each `[x1, y1, x2, y2]` in pixels of the upright
photo. `box_labels` may name the product in each box, in the order of the boxes. True boxes are used
to measure detection and the products found, never for training.
"""

import json
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from product1m.data.geometry import CORNERS
from product1m.data.limits import MAX_LABELS

BOXES_LIST = "boxes.jsonl"
BOXES = "boxes.parquet"
"""Table beside an artifact's item table, one row per box: `item` is the row of its photo there,
`label` the product in the box, empty if unknown."""
LABEL = "label"
SCHEMA = pa.schema(
    [
        ("item", pa.int64()),
        *((corner, pa.float32()) for corner in CORNERS),
        (LABEL, pa.string()),
    ]
)

MAX_COORDINATE = 1e6
"""Largest coordinate of a box, in pixels (ours)."""
MIN_INSIDE = 0.25
"""Smallest share of a box that must be inside its photo; what is outside is cut off (ours)."""

Box = tuple[float, float, float, float]


class BoxError(ValueError):
    """A value that is not a list of boxes."""


def parse_boxes(value: Any) -> tuple[Box, ...]:
    """Boxes from JSON; BoxError with the first value that is not a box."""
    if not isinstance(value, list) or not value:
        raise BoxError(f"boxes: expected a list of [x1, y1, x2, y2], got {value!r:.80}")
    if len(value) > MAX_LABELS:
        raise BoxError(f"{len(value)} boxes, more than {MAX_LABELS}")
    return tuple(_parse_box(box) for box in value)


def parse_box_labels(value: Any, num_boxes: int) -> tuple[str, ...]:
    """One label per box from JSON, none for null; BoxError for anything else."""
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(label, str) for label in value):
        raise BoxError(f"box_labels: expected a list of strings, one per box, got {value!r:.80}")
    if len(value) != num_boxes:
        raise BoxError(
            f"box_labels: expected one label for each of the {num_boxes} boxes, got {len(value)}"
        )
    return tuple(normalized_label(label) for label in value)


def normalized_label(label: str) -> str:
    """A label as items carry it: without white space around it, in Unicode's composed form."""
    return unicodedata.normalize("NFC", label.strip())


def check_box_labels(box_labels: Sequence[str], labels: Sequence[str]) -> None:
    """BoxError if a box shows a product that is not among the labels of its query."""
    for label in box_labels:
        if label not in labels:
            raise BoxError(
                f"box_labels: {label!r:.80} is not a label of the query; its labels are "
                f"{', '.join(labels):.120}"
            )


def check_boxes(boxes: Sequence[Box], width: int, height: int) -> None:
    """BoxError if boxes cannot be pixels of the photo; the message says what they look like."""
    shown = f"boxes: {list(boxes[0])!r:.80}"
    if max(map(max, boxes)) <= 1:
        raise BoxError(
            f"{shown} looks like shares of the photo's sides, expected pixels of its "
            f"{width} x {height}"
        )
    for box in boxes:
        x1, y1, x2, y2 = box
        inside = max(0.0, min(x2, width) - max(x1, 0)) * max(0.0, min(y2, height) - max(y1, 0))
        if inside < MIN_INSIDE * (x2 - x1) * (y2 - y1):
            raise BoxError(
                f"boxes: {list(box)!r:.80} is outside the photo of {width} x {height} px; "
                "it looks like pixels of the photo at another size"
            )


def write_boxes(
    path: Path,
    boxes: Mapping[str, Sequence[Sequence[float]]],
    labels: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write a `boxes.jsonl`; `labels` holds, for some of the ids, one label per box."""
    rows: list[dict[str, Any]] = []
    for item, given in boxes.items():
        rows.append({"id": item, "boxes": [list(box) for box in given]})
        if labels and labels.get(item):
            rows[-1]["box_labels"] = list(labels[item])
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


class BoxTable:
    """Collects the boxes of an artifact's items and writes them if there are any."""

    def __init__(self) -> None:
        self._rows: list[dict[str, float | str]] = []
        self.num_items = 0
        self.num_labeled = 0
        """Number of items whose boxes have labels."""

    def add(
        self,
        item: int,
        boxes: Sequence[Box],
        size_px: tuple[int, int],
        downscaled: float,
        labels: Sequence[str] = (),
    ) -> None:
        """Scale the boxes of the item at a row position to its stored photo, and clip them to it.

        `size_px` is the stored photo's width and height, `downscaled` its sides relative to the
        photo that `boxes` refer to. `labels` holds one label per box, or nothing.
        """
        corners = np.array(boxes, np.float64).reshape(-1, 4) * downscaled
        corners = corners.clip(0, np.array(size_px * 2, np.float64))
        inside = np.flatnonzero((corners[:, 2:] - corners[:, :2]).min(axis=1, initial=np.inf) > 0)
        for place in inside.tolist():
            box = dict(zip(CORNERS, corners[place].tolist(), strict=True))
            self._rows.append({"item": item, **box, LABEL: labels[place] if labels else ""})
        self.num_items += bool(len(inside))
        self.num_labeled += bool(len(inside) and labels)

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
        looks = "; it looks like [x, y, width, height]" if x2 > 0 and y2 > 0 else ""
        raise BoxError(f"boxes: {box!r:.80} has no area; expected x1 < x2 and y1 < y2{looks}")
    return (x1, y1, x2, y2)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= MAX_COORDINATE  # also false for NaN
