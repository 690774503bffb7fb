"""`boxes.jsonl`: true boxes of queries, in the folder of the lists, by item id.

Each line is a JSON object with `id`, `boxes` and optionally `box_labels`. Any other line is
rejected with its place and reason, like a line of a list; the query itself is kept.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from product1m.data.boxes import BOXES_LIST, Box, BoxError, parse_box_labels, parse_boxes
from product1m.data.limits import parse_json
from product1m.data.lists import MalformedError, RejectedLine, decoded, read_lines

_EXPECTED = 'expected {"id": …, "boxes": [[x1, y1, x2, y2], …]}'


@dataclass(frozen=True)
class KnownBoxes:
    """The boxes of one query."""

    line: int
    id: str
    boxes: tuple[Box, ...]
    labels: tuple[str, ...] = ()
    """One for each box, or none if the file gives none."""

    def rejected(self, reason: str) -> RejectedLine:
        """This line as one that cannot be used."""
        return RejectedLine(BOXES_LIST, self.line, self.id, reason)


def read_boxes(folder: Path) -> tuple[dict[str, KnownBoxes], list[RejectedLine]]:
    """Boxes by item id from a data set's `boxes.jsonl`, and its rejected lines; both may be empty.

    If two lines have the same id, the second is rejected.
    """
    known: dict[str, KnownBoxes] = {}
    rejected: list[RejectedLine] = []
    for row in _rows(folder / BOXES_LIST):
        if isinstance(row, RejectedLine):
            rejected.append(row)
        elif row.id in known:
            first = known[row.id].line
            rejected.append(row.rejected(f"duplicate id, first at {BOXES_LIST}:{first}"))
        else:
            known[row.id] = row
    return known, rejected


def _rows(path: Path) -> Iterator[KnownBoxes | RejectedLine]:
    if not path.is_file():
        return
    for number, raw in read_lines(path):
        item = ""
        try:
            value = parse_json(decoded(raw))
            item = str(value["id"])[:200]
            boxes = parse_boxes(value["boxes"])
            labels = parse_box_labels(value.get("box_labels"), len(boxes))
            yield KnownBoxes(number, item, boxes, labels)
        except BoxError as error:
            yield RejectedLine(BOXES_LIST, number, item, str(error))
        except MalformedError as error:
            yield RejectedLine(BOXES_LIST, number, item, error.reason)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            shown = raw.decode("utf-8", "replace").strip()
            reason = f"{_EXPECTED}, got {shown!r:.120} ({error!s:.80})"
            yield RejectedLine(BOXES_LIST, number, item, reason)
