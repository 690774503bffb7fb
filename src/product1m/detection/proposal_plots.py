"""Pictures that show what the proposal network finds."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from product1m.data.geometry import Boxes, BoxSelection
from product1m.data.photos import Photo
from product1m.detection.measuring import ScoredBoxes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch

MAX_BOXES = 10
"""Maximum number of proposals, and of selected boxes, drawn in a scene (ours)."""
TRUE, PROPOSED, SELECTED = "#2ecc40", "#ffb000", "#ff2d95"


def draw_proposals(
    path: Path,
    photos: Sequence[Photo],
    proposals: Sequence[ScoredBoxes],
    truth: Sequence[Boxes],
    selection: BoxSelection,
) -> None:
    """Draw scenes with their true boxes, best proposals, and selected boxes with their scores."""
    from matplotlib.figure import Figure

    columns = min(4, len(photos))
    rows = -(-len(photos) // columns)
    figure = Figure(figsize=(4 * columns, 4 * rows + 0.6), layout="constrained")
    cells = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for cell in cells:
        cell.axis("off")
    for cell, photo, scene, true in zip(cells, photos, proposals, truth, strict=False):
        cell.imshow(photo)
        _draw_boxes(cell, scene.best(MAX_BOXES).boxes_xyxy, PROPOSED, 1.0)
        _draw_boxes(cell, true, TRUE, 2.5)
        selected = scene.select(selection).best(MAX_BOXES)
        _draw_boxes(cell, selected.boxes_xyxy, SELECTED, 1.8)
        for (left, top, *_), score in zip(selected.boxes_xyxy, selected.scores, strict=True):
            label = {"facecolor": SELECTED, "linewidth": 0, "pad": 1}
            cell.text(left, top, f"{score:.2f}", color="white", fontsize=8, va="bottom", bbox=label)
    figure.legend(handles=_legend(selection), loc="outside upper center", ncols=3)
    figure.savefig(path, dpi=80)


def _legend(selection: BoxSelection) -> list["Patch"]:
    from matplotlib.patches import Patch

    return [
        Patch(color=TRUE, label="pasted product"),
        Patch(color=PROPOSED, label=f"best {MAX_BOXES} proposals"),
        Patch(
            color=SELECTED,
            label=f"selected, with detector score: {selection.min_score} or more, "
            f"IoU with a better box at most {selection.max_iou}",
        ),
    ]


def _draw_boxes(cell: "Axes", boxes: Boxes, color: str, width: float) -> None:
    from matplotlib.patches import Rectangle

    for left, top, right, bottom in boxes:
        corner, size = (left, top), (right - left, bottom - top)
        cell.add_patch(Rectangle(corner, *size, fill=False, edgecolor=color, linewidth=width))
