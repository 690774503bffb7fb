"""A catalogue as people edit it: a list in JSON Lines beside photos, in a folder or below `s3://`.

`gallery.jsonl` is a data set's gallery list, so every step reads it. Each edit is a numbered file
in `edits/` that names the list it made, in `lists/`. The store gives a number to one writer alone,
so of two people who edit at once both edits count; `gallery.jsonl` is the newest list's copy.
Photos are named by their digest, and those in `erased/` must never be added again.
"""

import hashlib
import json
import random
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from product1m.data.checking import ERASED, erased_photos
from product1m.data.intake import StoredPhoto
from product1m.data.limits import parse_json
from product1m.data.lists import JSON_LINES_LIST, PHOTO_FOLDER
from product1m.errors import DatasetError, NotStoredError
from product1m.storage.base import Store
from product1m.storage.folder import Folder, remove_unfinished
from product1m.storage.opening import open_store

LIST = JSON_LINES_LIST.format("gallery")
EDITS, LISTS = "edits/", "lists/"
KEPT_LISTS = 10
"""Older lists that stay, for writers that still read them (ours)."""
ATTEMPTS = 20
"""Edits by others that may come between before an edit gives up (ours)."""
PAUSE_S = 0.01
"""Longest pause after the first of them; it doubles six times (ours)."""

Act = Literal["add", "remove", "erase", "edited by hand"]
Line = dict[str, Any]
Lines = dict[str, Line]
"""Item id to its line, in the order of the list."""


@dataclass(frozen=True)
class NewItem:
    """An item to add, its photo checked and normalized."""

    id: str
    caption: str
    labels: tuple[str, ...]
    photo: StoredPhoto


@dataclass(frozen=True)
class Edit:
    """An entry of the log."""

    number: int
    act: Act
    items: list[str]
    by: str
    at: str
    reason: str
    list: str
    """SHA-256 of the list after the edit."""


class CatalogueStore:
    """The list, photos and log at an address; nothing is created before the first edit."""

    def __init__(self, address: str) -> None:
        self.store: Store = open_store(address)

    def lines(self) -> Lines:
        """The items by id, as the newest edit left them; `gallery.jsonl` is made equal to it.

        Raises DatasetError for a line that has no id.
        """
        given = self._given()  # read first: another edit turns it into one of the older lists
        edits = self.edits(KEPT_LISTS)
        if not edits:
            return _parsed(given, self.store.address(LIST))
        newest = edits[-1]
        if given is None or _digest(given) in {edit.list for edit in edits[:-1]}:
            given = self._read_list(newest)
            self.store.replace(LIST, given)
        if _digest(given) != newest.list:
            self._edit("edited by hand", lambda lines: (lines, []), "", "", given)
        return _parsed(given, self.store.address(LIST))

    def edits(self, last: int = 0) -> list[Edit]:
        """The log, oldest first; only the newest `last` entries if it is not 0."""
        names = sorted(file.name for file in self.store.files(EDITS))
        return [Edit(**json.loads(self.store.read(name))) for name in names[-last:]]

    def add(self, items: Iterable[NewItem], by: str, reason: str = "") -> Edit:
        """Add items, or replace those with the same id.

        Raises DatasetError for a photo that was erased, even if that happens while it is added.
        """
        erased, new, photos = erased_photos(self.store), {}, {}
        for item in items:
            photos[item.id] = hashlib.sha256(item.photo.encoded).hexdigest()
            _require_not_erased({item.id: photos[item.id]}, erased)
            new[item.id] = line_of(item)
            self.store.publish(new[item.id]["image"], item.photo.encoded)
        edit = self._edit("add", lambda lines: (lines | new, list(new)), by, reason)
        erased = erased_photos(self.store)
        if gone := sorted(name for name, digest in photos.items() if digest in erased):
            self.remove(gone, by, "erased while they were added", "erase")
            for name in gone:
                self.store.remove(new[name]["image"])
            _require_not_erased(photos, erased)
        return edit

    def known(self, ids: Collection[str]) -> Lines:
        """The lines of some items; DatasetError for an id that is not in the list."""
        lines = self.lines()
        _require_known(ids, lines, self.store.address(LIST))
        return {item: lines[item] for item in ids}

    def remove(self, ids: Collection[str], by: str, reason: str = "", act: Act = "remove") -> Edit:
        """Take items out of the list; their photos stay where they are.

        Raises DatasetError for an id that is not in the list.
        """

        def change(lines: Lines) -> tuple[Lines, list[str]]:
            _require_known(ids, lines, self.store.address(LIST))
            return {item: line for item, line in lines.items() if item not in set(ids)}, list(ids)

        return self._edit(act, change, by, reason)

    def _given(self) -> bytes | None:
        try:
            return self.store.read(LIST)
        except NotStoredError:
            return None

    def _read_list(self, edit: Edit) -> bytes:
        return self.store.read(f"{LISTS}{edit.list}.jsonl")

    def _edit(
        self,
        act: Act,
        change: Callable[[Lines], tuple[Lines, list[str]]],
        by: str,
        reason: str,
        base: bytes | None = None,
    ) -> Edit:
        """Apply a change to the newest list, or to `base`; again if somebody else was faster."""
        if base is None:
            self.lines()  # takes note of what was edited by hand
        before = base if base is not None else self._given()
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(random.uniform(0, PAUSE_S * 2 ** min(attempt, 6)))
            newest = self.edits(1)
            try:
                before = self._read_list(newest[-1]) if newest and base is None else before
            except NotStoredError:  # many later edits removed it
                continue
            changed, items = change(_parsed(before, self.store.address(LIST)))
            content = _written(changed) if base is None else base
            at = datetime.now(UTC).isoformat(timespec="seconds")
            number = newest[-1].number + 1 if newest else 1
            edit = Edit(number, act, items, by, at, reason, _digest(content))
            if self._publish(edit, content):
                return edit
        raise DatasetError(
            f"{self.store.uri}: others edited it {ATTEMPTS} times in the meantime; try again"
        )

    def _publish(self, edit: Edit, content: bytes) -> bool:
        """Make an edit the newest, unless another has its number."""
        name = f"{LISTS}{edit.list}.jsonl"
        self.store.publish(name, content)
        entry = json.dumps(edit.__dict__, ensure_ascii=False, indent=1).encode()
        if not self.store.publish(f"{EDITS}{edit.number:08d}.json", entry):
            if edit.list not in {other.list for other in self.edits(KEPT_LISTS)}:
                self.store.remove(name)
            return False
        self.store.publish(name, content)  # another writer may have forgotten it
        self.store.replace(LIST, content)
        self._forget_lists()
        if isinstance(self.store, Folder):
            for folder in ("", EDITS, LISTS, ERASED, PHOTO_FOLDER):
                remove_unfinished(self.store.root / folder)
        return True

    def _forget_lists(self) -> None:
        """Remove lists that nobody reads any more.

        Only those that older edits name: a list without an edit is about to get one.
        """
        edits = self.edits(2 * KEPT_LISTS)
        kept = {edit.list for edit in edits[-KEPT_LISTS:]}
        for name in {edit.list for edit in edits[:-KEPT_LISTS]} - kept:
            self.store.remove(f"{LISTS}{name}.jsonl")


def line_of(item: NewItem) -> Line:
    """An item's line; its photo is named by its digest."""
    return {
        "id": item.id,
        "caption": item.caption,
        "labels": list(item.labels),
        "image": f"{PHOTO_FOLDER}/{hashlib.sha256(item.photo.encoded).hexdigest()}.jpg",
    }


def _written(lines: Lines) -> bytes:
    text = (json.dumps(line, ensure_ascii=False) + "\n" for line in lines.values())
    return "".join(text).encode()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _parsed(content: bytes | None, address: str) -> Lines:
    lines: Lines = {}
    # Not splitlines, which also splits at characters that JSON may hold as they are.
    for number, raw in enumerate((content or b"").split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            line = parse_json(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
            lines[str(line["id"])] = line
        except (ValueError, LookupError, TypeError) as error:
            raise DatasetError(
                f"{address}:{number}: expected a JSON object with an id ({error}); correct the line"
            ) from error
    return lines


def _require_not_erased(photos: Mapping[str, str], erased: Collection[str]) -> None:
    """DatasetError if one of the photos, by item, is among the erased ones."""
    for item, digest in photos.items():
        if digest in erased:
            raise DatasetError(
                f"item {item}: its photo was erased on request and must not be added again"
            )


def _require_known(ids: Collection[str], lines: Lines, address: str) -> None:
    unknown = sorted(set(ids) - lines.keys())
    if unknown:
        raise DatasetError(f"{address}: no item {', '.join(unknown[:5])}; nothing was changed")
