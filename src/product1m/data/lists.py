"""Product lists to items: Product1M's `#####` lists and JSON Lines, distinguished by file name.

A line that is not an item is never dropped: it becomes a `RejectedLine` with its place and reason.
"""

import codecs
import html
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from product1m.data.boxes import (
    BOXES_LIST,
    Box,
    BoxError,
    check_box_labels,
    normalized_label,
    parse_box_labels,
    parse_boxes,
)
from product1m.data.limits import MAX_LABELS, MAX_LINE_BYTES, half_character_fault, parse_json
from product1m.errors import DatasetError

Role = Literal["train", "gallery", "queries"]
ROLES: tuple[Role, ...] = ("train", "gallery", "queries")

FIELD_SEPARATOR = "#####"
LABEL_SEPARATOR = "#;#"
PHOTO_FOLDER = "images"
"""Where a Product1M folder keeps its photos, named by item id (ours)."""
JSON_LINES_LIST = "{}.jsonl"
"""File names of the lists in JSON Lines (ours)."""
PRODUCT1M_LIST = "product1m_{}_ossurl_v2.txt"
"""File names of its lists (released code)."""
DATASET_FILES = (
    *map(JSON_LINES_LIST.format, ROLES),
    *(PRODUCT1M_LIST.format(name) for name in ("train", "gallery", "dev", "test")),
    BOXES_LIST,
)
"""Files that a data set of either format may hold in addition to its photos."""
IMAGE_SCHEMES = ("http", "https", "s3")
"""URL schemes of photos outside the data set (ours)."""
MAX_ID_BYTES = 96
"""Longest id: names in a tar shard have at most 100 bytes, with `.jpg` (ours)."""

ID_SEPARATOR = ","
"""Separates the ids in a line of `retrieval_id_list.txt` (released code)."""

_CONTROLS = {code for code in (*range(0x20), *range(0x7F, 0xA0)) if not chr(code).isspace()}
_DIRECTIONS = (0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_INVISIBLE = dict.fromkeys((*map(ord, "\u200b\u200c\u200d\u2060\ufeff"), *_CONTROLS, *_DIRECTIONS))


@dataclass(frozen=True)
class ListFile:
    """One list of a data set."""

    path: Path
    role: Role
    split: str = ""
    """`dev` or `test` if all lines of the file belong to it."""

    @property
    def is_jsonl(self) -> bool:
        """JSON Lines; otherwise Product1M's format."""
        return self.path.suffix == ".jsonl"


@dataclass(frozen=True)
class ListItem:
    """A well-formed line."""

    list_name: str
    line: int
    """1-based."""
    id: str
    caption: str
    """Entities unescaped, white space collapsed, invisible characters removed (ours)."""
    labels: tuple[str, ...] = ()
    split: str = ""
    image: str = ""
    """Relative to the data set, or an address; empty if the photo is named by the item's id."""
    urls: tuple[str, ...] = ()
    """Addresses of the photo, best first."""
    boxes: tuple[Box, ...] = ()
    """Boxes of a query's products, if the list has them: x1, y1, x2, y2 in pixels of the photo."""
    box_labels: tuple[str, ...] = ()
    """The product in each box, if the list has them."""

    def rejected(self, reason: str) -> "RejectedLine":
        """This line as one that cannot be used."""
        return RejectedLine(self.list_name, self.line, self.id, reason)


@dataclass(frozen=True)
class RejectedLine:
    """A line or photo that cannot be used."""

    list_name: str
    line: int
    id: str
    reason: str

    def __str__(self) -> str:
        return f"{self.list_name}:{self.line}: {self.reason}"


def find_lists(
    folder: Path, address: str = "", names: Container[str] | None = None
) -> dict[Role, list[ListFile]]:
    """The lists of a data set folder, in either format; DatasetError if one is missing.

    Args:
        folder: the folder that holds the lists.
        address: how errors name the data set, if not by the folder.
        names: the lists that exist, if they are not in the folder yet.
    """
    shown = address or str(folder)
    jsonl: dict[Role, list[ListFile]] = {
        role: [ListFile(folder / JSON_LINES_LIST.format(role), role)] for role in ROLES
    }
    product1m: dict[Role, list[ListFile]] = {
        "train": [_product1m_list(folder, "train", "train")],
        "gallery": [_product1m_list(folder, "gallery", "gallery")],
        "queries": [_product1m_list(folder, split, "queries", split) for split in ("dev", "test")],
    }
    complete = [lists for lists in (jsonl, product1m) if not _missing(lists, names)]
    if len(complete) == 2:
        raise DatasetError(
            f"{shown}: holds both train.jsonl, gallery.jsonl, queries.jsonl and Product1M lists; "
            "remove one of the two sets"
        )
    if complete:
        return complete[0]
    if names is None and not folder.is_dir():
        raise DatasetError(f"{shown}: no such folder; expected a data set with lists and photos")
    raise DatasetError(
        f"{shown}: expected train.jsonl, gallery.jsonl and queries.jsonl (missing: "
        f"{', '.join(_missing(jsonl, names))}) or the Product1M lists (missing: "
        f"{', '.join(_missing(product1m, names))})"
    )


def read_list(source: ListFile) -> Iterator[ListItem | RejectedLine]:
    """Every line that is not blank, in order: an item, or the reason why it is not one."""
    for number, raw in read_lines(source.path):
        yield parse_line(raw, number, source)


def parse_line(raw: bytes, number: int, source: ListFile) -> ListItem | RejectedLine:
    """The item of a line of a list, or the reason why it is not one."""
    parse = _parse_jsonl if source.is_jsonl else _parse_product1m
    try:
        return parse(decoded(raw), number, source)
    except MalformedError as error:
        return RejectedLine(source.path.name, number, error.id, error.reason)


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Every line that is not blank with its number, without a byte order mark."""
    for number, raw in enumerate(_bounded_lines(path), start=1):
        line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
        if line.strip():
            yield number, line


def _bounded_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file; a line that is too long is cut one byte after the limit."""
    with path.open("rb") as file:
        while raw := file.readline(MAX_LINE_BYTES + 1):
            rest = raw
            while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
                rest = file.readline(MAX_LINE_BYTES + 1)
            yield raw


def decoded(raw: bytes) -> str:
    """A line as text without its end; MalformedError if it is too long or not UTF-8."""
    if len(raw) > MAX_LINE_BYTES:
        raise MalformedError("", f"longer than {MAX_LINE_BYTES} bytes")
    try:
        return raw.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        place = f"byte 0x{raw[error.start]:02x} at {error.start}"
        raise MalformedError("", f"not UTF-8 ({error.reason}, {place})") from error


def clean_caption(raw: str) -> str:
    """Unescape HTML entities, drop invisible characters, collapse white space (ours)."""
    return " ".join(html.unescape(raw).translate(_INVISIBLE).split())


class MalformedError(Exception):
    """A line that is not an item; the reason goes into the quarantine."""

    def __init__(self, id: str, reason: str) -> None:
        super().__init__(reason)
        self.id = id
        self.reason = reason


def _product1m_list(folder: Path, name: str, role: Role, split: str = "") -> ListFile:
    return ListFile(folder / PRODUCT1M_LIST.format(name), role, split)


def _missing(lists: dict[Role, list[ListFile]], names: Container[str] | None) -> list[str]:
    return [
        source.path.name
        for sources in lists.values()
        for source in sources
        if not (source.path.is_file() if names is None else source.path.name in names)
    ]


def _parse_product1m(line: str, number: int, source: ListFile) -> ListItem:
    fields = line.split(FIELD_SEPARATOR)
    item_id = _checked_id(fields[0].strip(), source)
    expected = (4, 5) if source.role == "train" else (5,)
    if len(fields) not in expected:
        raise MalformedError(
            item_id,
            f"expected {' or '.join(map(str, expected))} fields separated by "
            f"{FIELD_SEPARATOR!r}, got {len(fields)}",
        )
    labels = fields[4].split(LABEL_SEPARATOR) if len(fields) == 5 and fields[4].strip() else []
    return ListItem(
        list_name=source.path.name,
        line=number,
        id=item_id,
        caption=_checked_caption(fields[1], item_id),
        labels=_checked_labels(labels, item_id, source),
        split=source.split,
        urls=tuple(url for url in map(str.strip, fields[2:4]) if url),
    )


def _parse_jsonl(line: str, number: int, source: ListFile) -> ListItem:
    try:
        value = parse_json(line)
    except ValueError as error:
        raise MalformedError("", f"not JSON ({error})") from error
    if not isinstance(value, dict):
        raise MalformedError("", f"expected a JSON object, got {type(value).__name__}")
    raw_id = value.get("id")
    if isinstance(raw_id, int) and not isinstance(raw_id, bool):
        raw_id = str(raw_id)
    item_id = _checked_id(_string(raw_id, "id", ""), source)
    caption = _checked_caption(_string(value.get("caption"), "caption", item_id), item_id)
    raw_labels = value.get("labels")
    raw_labels = [] if raw_labels is None else raw_labels
    if not isinstance(raw_labels, list):
        raise MalformedError(item_id, f"labels: expected a list of strings, got {raw_labels!r:.80}")
    strings = [_string(label, "labels", item_id) for label in raw_labels]
    labels = _checked_labels(strings, item_id, source)
    boxes, box_labels = _checked_boxes(value, labels, item_id, source)
    return ListItem(
        list_name=source.path.name,
        line=number,
        id=item_id,
        caption=caption,
        labels=labels,
        split=_checked_split(value.get("split"), item_id, source),
        image=_checked_image(_string(value.get("image"), "image", item_id), item_id),
        boxes=boxes,
        box_labels=box_labels,
    )


def _string(value: Any, key: str, id: str) -> str:
    if value is None:
        raise MalformedError(id, f"{key}: missing")
    if not isinstance(value, str):
        raise MalformedError(id, f"{key}: expected a string, got {value!r:.80}")
    if fault := half_character_fault(value):
        raise MalformedError(id, f"{key}: {fault}")
    return value


def _checked_id(id: str, source: ListFile) -> str:
    if not id:
        raise MalformedError("", "the id is empty")
    if "/" in id or "\\" in id or id.startswith("."):
        raise MalformedError(id, f"id {id!r:.80} could name a file outside the data set")
    if not id.isprintable() or id != id.strip():
        raise MalformedError(id, f"id {id!r:.80} has white space around it or control characters")
    if ID_SEPARATOR in id and source.role != "train":
        raise MalformedError(
            id, f"id {id!r:.80} has a comma, which separates the ids of retrieval_id_list.txt"
        )
    if len(id.encode()) > MAX_ID_BYTES:
        raise MalformedError(id[:MAX_ID_BYTES], f"the id is longer than {MAX_ID_BYTES} bytes")
    return id


def _checked_caption(raw: str, id: str) -> str:
    caption = clean_caption(raw)
    if not caption:
        raise MalformedError(id, "the caption is empty")
    return caption


def _checked_labels(raw: list[str], id: str, source: ListFile) -> tuple[str, ...]:
    if len(raw) > MAX_LABELS:
        raise MalformedError(id, f"{len(raw)} labels, more than {MAX_LABELS}")
    labels = tuple(map(normalized_label, raw))
    if not all(labels):
        raise MalformedError(id, "a label is empty")
    if any(_CONTROLS.intersection(map(ord, label)) for label in labels):
        raise MalformedError(id, f"labels: {list(labels)!r:.80} have control characters")
    if source.role != "train" and not labels:
        raise MalformedError(id, "the label is missing")
    if source.role == "gallery" and source.is_jsonl and len(labels) > 1:
        raise MalformedError(id, f"a gallery item shows one product, got {len(labels)} labels")
    return labels


def _checked_split(value: Any, id: str, source: ListFile) -> str:
    if value is None or source.role != "queries":
        return ""
    if value not in ("dev", "test"):
        raise MalformedError(id, f"split: expected 'dev' or 'test', got {value!r:.80}")
    return str(value)


def _checked_boxes(
    value: Mapping[str, Any], labels: Sequence[str], id: str, source: ListFile
) -> tuple[tuple[Box, ...], tuple[str, ...]]:
    """Boxes and their labels; both empty if the line has none or is not a query's."""
    if source.role != "queries":
        return (), ()
    try:
        raw = value.get("boxes")
        boxes = () if raw is None else parse_boxes(raw)
        box_labels = parse_box_labels(value.get("box_labels"), len(boxes))
        check_box_labels(box_labels, labels)
        return boxes, box_labels
    except BoxError as error:
        raise MalformedError(id, str(error)) from error


def _checked_image(image: str, id: str) -> str:
    path = PurePosixPath(image)
    if not image.strip():
        raise MalformedError(id, "image: empty")
    if "://" in image and image.split("://", maxsplit=1)[0] not in IMAGE_SCHEMES:
        raise MalformedError(
            id, f"image {image!r:.80}: expected a file's name, or {', '.join(IMAGE_SCHEMES)}://…"
        )
    if path.is_absolute() or ".." in path.parts or "\\" in image or "\0" in image:
        raise MalformedError(id, f"image {image!r:.80} leads out of the data set")
    return image


def count_lines(path: Path) -> tuple[int, int]:
    """Number of lines that are not blank, and of blank ones."""
    num_lines = sum(1 for _ in _bounded_lines(path))
    num_written = sum(1 for _ in read_lines(path))
    return num_written, num_lines - num_written
