"""Product lists to items: Product1M's `#####` lists and JSON Lines, distinguished by file name.

A line that is not an item is never dropped: it becomes a `RejectedLine` with its place and reason.
"""

import html
import json
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from product1m.data.boxes import BOXES_LIST, Box, BoxError, parse_boxes
from product1m.errors import DatasetError

Role = Literal["train", "gallery", "queries"]
ROLES: tuple[Role, ...] = ("train", "gallery", "queries")

FIELD_SEPARATOR = "#####"
LABEL_SEPARATOR = "#;#"
PHOTO_FOLDER = "images"
"""Where a Product1M folder keeps its photos, named by item id (ours)."""
PRODUCT1M_LIST = "product1m_{}_ossurl_v2.txt"
"""File names of its lists (released code)."""
DATASET_FILES = (
    *(f"{role}.jsonl" for role in ROLES),
    *(PRODUCT1M_LIST.format(name) for name in ("train", "gallery", "dev", "test")),
    BOXES_LIST,
)
"""Files that a data set of either format may hold beside its photos."""
IMAGE_SCHEMES = ("http", "https", "s3")
"""Of photos outside the data set (ours)."""
MAX_ID_BYTES = 96
"""An id names a member of a tar shard, whose names end at 100 bytes, `.jpg` included (ours)."""

_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff"))


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
    """Of a query's products, if the list has them: x1, y1, x2, y2 in pixels of the photo."""

    def rejected(self, reason: str) -> "RejectedLine":
        """The line as one that cannot be used."""
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
        role: [ListFile(folder / f"{role}.jsonl", role)] for role in ROLES
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
    parse = _parse_jsonl if source.is_jsonl else _parse_product1m
    with source.path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                yield parse(line, number, source)
            except UnicodeDecodeError as error:
                yield RejectedLine(source.path.name, number, "", f"not UTF-8 ({error.reason})")
            except _MalformedError as error:
                yield RejectedLine(source.path.name, number, error.id, error.reason)


def clean_caption(raw: str) -> str:
    """Unescape HTML entities, drop invisible characters, collapse white space (ours)."""
    return " ".join(html.unescape(raw).translate(_INVISIBLE).split())


class _MalformedError(Exception):
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
    item_id = _checked_id(fields[0].strip())
    expected = (4, 5) if source.role == "train" else (5,)
    if len(fields) not in expected:
        raise _MalformedError(
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
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _MalformedError("", f"not JSON ({error})") from error
    if not isinstance(value, dict):
        raise _MalformedError("", f"expected a JSON object, got {type(value).__name__}")
    raw_id = value.get("id")
    if isinstance(raw_id, int) and not isinstance(raw_id, bool):
        raw_id = str(raw_id)
    item_id = _checked_id(_string(raw_id, "id", ""))
    labels = value.get("labels")
    labels = [] if labels is None else labels
    if not isinstance(labels, list):
        raise _MalformedError(item_id, f"labels: expected a list of strings, got {labels!r:.80}")
    return ListItem(
        list_name=source.path.name,
        line=number,
        id=item_id,
        caption=_checked_caption(_string(value.get("caption"), "caption", item_id), item_id),
        labels=_checked_labels(
            [_string(label, "labels", item_id) for label in labels], item_id, source
        ),
        split=_checked_split(value.get("split"), item_id, source),
        image=_checked_image(_string(value.get("image"), "image", item_id), item_id),
        boxes=_checked_boxes(value.get("boxes"), item_id, source),
    )


def _string(value: Any, key: str, id: str) -> str:
    if value is None:
        raise _MalformedError(id, f"{key}: missing")
    if not isinstance(value, str):
        raise _MalformedError(id, f"{key}: expected a string, got {value!r:.80}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _MalformedError(id, f"{key}: half a surrogate pair is not a character") from error
    return value


def _checked_id(id: str) -> str:
    if not id:
        raise _MalformedError("", "the id is empty")
    if "/" in id or "\\" in id or id.startswith("."):
        raise _MalformedError(id, f"id {id!r:.80} could name a file outside the data set")
    if not id.isprintable() or id != id.strip():
        raise _MalformedError(id, f"id {id!r:.80} has white space around it or control characters")
    if len(id.encode()) > MAX_ID_BYTES:
        raise _MalformedError(id[:MAX_ID_BYTES], f"the id is longer than {MAX_ID_BYTES} bytes")
    return id


def _checked_caption(raw: str, id: str) -> str:
    caption = clean_caption(raw)
    if not caption:
        raise _MalformedError(id, "the caption is empty")
    return caption


def _checked_labels(raw: list[str], id: str, source: ListFile) -> tuple[str, ...]:
    labels = tuple(label.strip() for label in raw)
    if not all(labels):
        raise _MalformedError(id, "a label is empty")
    if source.role != "train" and not labels:
        raise _MalformedError(id, "the label is missing")
    if source.role == "gallery" and source.is_jsonl and len(labels) > 1:
        raise _MalformedError(id, f"a gallery item shows one product, got {len(labels)} labels")
    return labels


def _checked_split(value: Any, id: str, source: ListFile) -> str:
    if value is None or source.role != "queries":
        return ""
    if value not in ("dev", "test"):
        raise _MalformedError(id, f"split: expected 'dev' or 'test', got {value!r:.80}")
    return str(value)


def _checked_boxes(value: Any, id: str, source: ListFile) -> tuple[Box, ...]:
    if value is None or source.role != "queries":
        return ()
    try:
        return parse_boxes(value)
    except BoxError as error:
        raise _MalformedError(id, str(error)) from error


def _checked_image(image: str, id: str) -> str:
    path = PurePosixPath(image)
    if not image.strip():
        raise _MalformedError(id, "image: empty")
    if "://" in image and image.split("://", maxsplit=1)[0] not in IMAGE_SCHEMES:
        raise _MalformedError(
            id, f"image {image!r:.80}: expected a file's name, or {', '.join(IMAGE_SCHEMES)}://…"
        )
    if path.is_absolute() or ".." in path.parts or "\\" in image or "\0" in image:
        raise _MalformedError(id, f"image {image!r:.80} leads out of the data set")
    return image


def count_lines(path: Path) -> tuple[int, int]:
    """Lines that are not blank, and blank ones."""
    with path.open("rb") as file:
        written = [0, 0]
        for line in file:
            written[not line.strip()] += 1
    return written[0], written[1]
