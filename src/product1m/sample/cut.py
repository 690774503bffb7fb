"""Cut a sample out of a data set: some classes, their queries and gallery, some train items."""

import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from product1m.artifacts.atomic import require_unused, whole_folder
from product1m.data.boxes import BOXES_LIST, write_boxes
from product1m.data.known_boxes import read_boxes
from product1m.data.lists import (
    PHOTO_FOLDER,
    ListFile,
    ListItem,
    RejectedLine,
    Role,
    find_lists,
    read_list,
)
from product1m.data.photo_sources import EXTENSIONS, require_own_lists
from product1m.data.sample_mark import mark_as_sample
from product1m.errors import DatasetError
from product1m.sample.drawn.split import BACKGROUND_FOLDER
from product1m.telemetry.progress import track

MAX_BACKGROUNDS = 200
"""Largest number of backgrounds that are copied (ours)."""


@dataclass(frozen=True)
class _Candidate:
    """A line with a photo."""

    item: ListItem
    photo: Path
    """Relative to the data set."""


def cut_sample(source: Path, folder: Path, num_classes: int, seed: int = 0) -> dict[str, float]:
    """Write the part of a data set that belongs to `num_classes` classes, in the same format.

    Classes are chosen query by query, to keep as many complete queries as possible: a query is kept
    if all its labels are chosen, a gallery item if its (first) label is. Train items have no
    labels; the same share is kept as of the gallery, titles with a chosen brand first. Lines are
    copied byte by byte. Items without a photo and malformed lines are left out and counted.

    Raises DatasetError if lists are missing or no query can be kept, StorageError if `folder` is
    not empty.
    """
    lists = _own_lists(source)
    left_out: Counter[str] = Counter()
    gallery = _usable(source, lists["gallery"], left_out)
    queries = _usable(source, lists["queries"], left_out)
    in_gallery = {candidate.item.labels[0] for candidate in gallery}
    query_labels = [candidate.item.labels for candidate in queries]
    chosen = _choose_classes(source, query_labels, in_gallery, num_classes, seed)
    kept_gallery = [c for c in gallery if c.item.labels[0] in chosen]
    kept_queries = _whole_queries(lists["queries"], queries, chosen)
    share = len(kept_gallery) / len(gallery)
    train = _choose_train(source, lists["train"], chosen, share, seed, left_out)
    kept = [*train, *kept_gallery, *kept_queries]
    require_unused(folder)
    with whole_folder(folder) as partial:
        for list_file in (file for files in lists.values() for file in files):
            _copy_lines(list_file.path, partial, [c.item for c in kept])
        _copy_photos(source, partial, [c.photo for c in kept])
        num_backgrounds = _copy_backgrounds(source, partial, seed)
        _copy_boxes(source, partial, [c.item.id for c in kept_queries])
        mark_as_sample(partial)
    return {
        "classes": float(len(chosen)),
        "train_items": float(len(train)),
        "gallery_items": float(len(kept_gallery)),
        **_count_queries(kept_queries),
        "backgrounds": float(num_backgrounds),
        "without_photo": float(left_out["photo"]),
        "malformed_lines": float(left_out["line"]),
    }


def _own_lists(source: Path) -> dict[Role, list[ListFile]]:
    require_own_lists(source)
    return find_lists(source)


def _count_queries(queries: Sequence[_Candidate]) -> dict[str, float]:
    splits = Counter(candidate.item.split or "unsplit" for candidate in queries)
    return {
        **{f"{split}_items": float(number) for split, number in sorted(splits.items())},
        "queries": float(len(queries)),
        "labels_per_query": sum(len(c.item.labels) for c in queries) / len(queries),
    }


def _usable(source: Path, lists: Iterable[ListFile], left_out: Counter[str]) -> list[_Candidate]:
    """Well-formed lines whose photo exists."""
    candidates = []
    for list_file in lists:
        for line in track(read_list(list_file), f"reading {list_file.path.name}"):
            candidate = _with_photo(source, line, left_out)
            if candidate is not None:
                candidates.append(candidate)
    if not candidates:
        names = ", ".join(list_file.path.name for list_file in lists)
        raise DatasetError(
            f"{source}: no item of {names} has a photo in the folder "
            f"({left_out['photo']} without a photo, {left_out['line']} malformed lines); "
            "download the photos first"
        )
    return candidates


def _with_photo(
    source: Path, line: ListItem | RejectedLine, left_out: Counter[str]
) -> _Candidate | None:
    if isinstance(line, RejectedLine):
        left_out["line"] += 1
        return None
    photo = _photo_of(source, line)
    if photo is None:
        left_out["photo"] += 1
        return None
    return _Candidate(line, photo)


def _photo_of(source: Path, item: ListItem) -> Path | None:
    """The photo's path relative to the data set: as the list gives it, or by the item's id.

    A link that leads out of the data set does not count.
    """
    names = [item.image] if item.image else [f"{PHOTO_FOLDER}/{item.id}{e}" for e in EXTENSIONS]
    photo = next((Path(name) for name in names if (source / name).is_file()), None)
    inside = photo and (source / photo).resolve().is_relative_to(source.resolve())
    return photo if inside else None


def _choose_classes(
    source: Path,
    label_sets: Sequence[Sequence[str]],
    in_gallery: set[str],
    num_classes: int,
    seed: int,
) -> set[str]:
    """Choose classes by whole queries, those first that complete most queries per new class.

    A random factor between 0.5 and 1.5 varies the choice with the seed.
    """
    counts = Counter(frozenset(labels) for labels in label_sets if in_gallery.issuperset(labels))
    available = set().union(*counts) if counts else set()
    if not 1 <= num_classes <= len(available):
        raise DatasetError(
            f"{source}: cannot choose {num_classes} classes; {len(available)} classes of its "
            "queries are in the gallery, so ask for 1 to that many"
        )
    rng = np.random.default_rng([seed, 5])
    sets = sorted(counts, key=sorted)
    luck = dict(zip(sets, rng.uniform(0.5, 1.5, len(sets)), strict=True))
    chosen: set[str] = set()
    while len(chosen) < num_classes:
        room = num_classes - len(chosen)
        fitting = [labels for labels in sets if 0 < len(labels - chosen) <= room]
        if not fitting:
            chosen |= set(sorted(available - chosen)[:room])
            break
        best = max(fitting, key=lambda labels: luck[labels] * _gain(labels, chosen, counts))
        chosen |= best
    return chosen


def _whole_queries(
    lists: Sequence[ListFile], queries: Sequence[_Candidate], chosen: set[str]
) -> list[_Candidate]:
    """The queries whose labels are all chosen; DatasetError if a list has none."""
    kept = [candidate for candidate in queries if chosen.issuperset(candidate.item.labels)]
    for list_file in lists:
        if not any(candidate.item.list_name == list_file.path.name for candidate in kept):
            raise DatasetError(
                f"{list_file.path}: no query has all its labels among the {len(chosen)} chosen "
                "classes; ask for more classes or try another seed"
            )
    return kept


def _gain(labels: frozenset[str], chosen: set[str], counts: Counter[frozenset[str]]) -> float:
    """Queries that become complete with `labels`, per new class."""
    grown = chosen | labels
    whole = sum(number for other, number in counts.items() if other <= grown and other - chosen)
    return whole / len(labels - chosen)


def _choose_train(
    source: Path,
    lists: Sequence[ListFile],
    chosen: set[str],
    share: float,
    seed: int,
    left_out: Counter[str],
) -> list[_Candidate]:
    """The given share of the train items, titles with the brand of a chosen class first."""
    brands = {label.split()[0] for label in chosen}
    items = []
    for list_file in lists:
        for line in track(read_list(list_file), f"reading {list_file.path.name}"):
            if isinstance(line, ListItem):
                items.append(line)
            else:
                left_out["line"] += 1
    number = round(share * len(items))
    order = np.random.default_rng([seed, 6]).permutation(len(items))
    related = [index for index in order if any(brand in items[index].caption for brand in brands)]
    named = set(related)
    others = [index for index in order if index not in named]
    kept: list[_Candidate] = []
    for index in (*related, *others):
        if len(kept) == number:
            break
        candidate = _with_photo(source, items[index], left_out)
        if candidate is not None:
            kept.append(candidate)
    if not kept:
        raise DatasetError(
            f"{source}: expected train items with photos, got none; download the photos first"
        )
    return kept


def _copy_lines(path: Path, folder: Path, kept: Sequence[ListItem]) -> None:
    """Copy the lines of the kept items, byte by byte."""
    numbers = {item.line for item in kept if item.list_name == path.name}
    with path.open("rb") as lines, (folder / path.name).open("wb") as copy:
        for number, line in enumerate(lines, start=1):
            if number in numbers:
                copy.write(line)


def _copy_photos(source: Path, folder: Path, photos: Sequence[Path]) -> None:
    for photo in track(dict.fromkeys(photos), "copying photos"):
        (folder / photo).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / photo, folder / photo)


def _copy_boxes(source: Path, folder: Path, queries: Sequence[str]) -> None:
    known, _ = read_boxes(source)
    kept = {query: known[query] for query in queries if query in known}
    if kept:
        boxes = {query: row.boxes for query, row in kept.items()}
        labels = {query: row.labels for query, row in kept.items()}
        write_boxes(folder / BOXES_LIST, boxes, labels)


def _copy_backgrounds(source: Path, folder: Path, seed: int) -> int:
    if not (source / BACKGROUND_FOLDER).is_dir():
        return 0
    names = sorted(
        path.relative_to(source)
        for path in (source / BACKGROUND_FOLDER).rglob("*")
        if path.suffix.lower() in EXTENSIONS
    )
    order = np.random.default_rng([seed, 7]).permutation(len(names))[:MAX_BACKGROUNDS]
    _copy_photos(source, folder, [names[index] for index in sorted(order)])
    return len(order)
