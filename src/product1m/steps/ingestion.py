"""Lists and photos in; `train`, `gallery` and `queries` out, every photo decoded once."""

import hashlib
import json
import logging
import os
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow.parquet as pq

from product1m.artifacts.folder import ArtifactWriter
from product1m.config import IngestionConfig
from product1m.data.boxes import BoxTable, read_boxes
from product1m.data.class_names import count_naming_titles, write_classes
from product1m.data.downloads import Downloads
from product1m.data.duplicates import Keys, assign_splits, duplicate_groups, key_of
from product1m.data.intake import PhotoLimits, StoredPhoto, normalize_photo, unrestricted_pillow
from product1m.data.items import ITEMS, ItemWriter, set_columns
from product1m.data.leakage import Fingerprints, report_leakage
from product1m.data.lists import (
    ROLES,
    ListFile,
    ListItem,
    Role,
    SetAside,
    count_lines,
    find_lists,
    read_list,
)
from product1m.data.photo_sources import Photos, PhotoSource, local_lists
from product1m.data.quarantine import Quarantine
from product1m.errors import DatasetError, PhotoError
from product1m.steps.bracket import open_step_with_parts
from product1m.storage.base import sha256_of
from product1m.storage.opening import open_store
from product1m.telemetry.progress import track

logger = logging.getLogger(__name__)

STEP = "ingestion"
CONTENT = ("id", "caption", "labels", "split", "sha256")
"""Columns by which two data sets are the same (ours)."""
PENDING_PER_WORKER = 4
"""Photos in flight a thread: enough to keep it busy, little enough to bound memory (ours)."""

In = TypeVar("In")
Out = TypeVar("Out")
Intake = SetAside | tuple[ListItem, StoredPhoto]


def run(
    dataset: str,
    train: Path,
    gallery: Path,
    queries: Path,
    config: IngestionConfig,
    storage_root: str = "",
) -> dict[str, float]:
    """Read the data set and write its three artifacts; returns metrics as `part/name`.

    `dataset` is a folder or an `s3://` prefix. Photos behind URLs are kept below the storage root,
    or `$PRODUCT1M_WORK`, so that another attempt does not fetch them again.

    DatasetError if lists are missing, a list has no usable item, or too many had to be set aside.
    """
    kept = storage_root or os.environ.get("PRODUCT1M_WORK") or str(train.parent / ".work")
    folders = {"train": train, "gallery": gallery, "queries": queries}
    with (
        open_step_with_parts(STEP, config, folders, storage_root) as step,
        local_lists(dataset) as list_folder,
        unrestricted_pillow(),
        ThreadPoolExecutor(config.num_workers) as pool,
    ):
        source = Photos(open_store(dataset), Downloads(open_store(kept), config))
        lists = find_lists(list_folder, dataset)
        writers = {role: step.writers[role] for role in ROLES}
        keys = {
            role: _take_in_role(lists[role], source, pool, writers[role], config) for role in ROLES
        }
        _group(writers, keys)
        _split_queries(writers["queries"], keys["queries"], config)
        _report_leaks(writers, keys)
        _report_labels(writers)
        for writer in writers.values():
            writer.details["content"] = _content_digest(writer.folder)
    return step.all_metrics()


@dataclass(frozen=True)
class _Keys:
    photos: Keys
    captions: Keys


def _take_in_role(
    lists: list[ListFile],
    source: PhotoSource,
    pool: ThreadPoolExecutor,
    writer: ArtifactWriter,
    config: IngestionConfig,
) -> _Keys:
    role = lists[0].role
    counts = [count_lines(file.path) for file in lists]
    num_rows = sum(rows for rows, _ in counts)
    quarantine = Quarantine(role, num_rows, config.max_quarantine_share)
    photos, captions = array("Q"), array("Q")
    boxes, limits = BoxTable(), PhotoLimits.from_config(config)
    known_boxes = read_boxes(lists[0].path.parent) if role == "queries" else {}

    def take(row: ListItem | SetAside) -> Intake:
        return _take_in_one(row, source, limits)

    rows = _without_repeats(lists)
    taken = in_order(pool, take, rows, config.num_workers * PENDING_PER_WORKER)
    with ItemWriter(writer.folder, shard_mib=config.shard_mib, store=writer.store) as items:
        for intake in track(taken, f"{STEP} {role}", num_rows):
            if isinstance(intake, SetAside):
                quarantine.add(intake)
                continue
            item, photo = intake
            size_px = (photo.width, photo.height)
            of_item = item.boxes or known_boxes.get(item.id, ())
            boxes.add(len(items), of_item, size_px, photo.downscaled)
            sha256 = items.add(
                item.id,
                photo.encoded,
                size_px,
                caption=item.caption,
                labels=list(item.labels),
                split=item.split,
            )
            photos.append(key_of(sha256))
            captions.append(key_of(item.caption))
    if not photos:
        raise DatasetError(f"{lists[0].path}: no usable item in {num_rows} lines")
    quarantine.write(writer.folder)
    boxes.write(writer.folder)
    if role == "queries":
        writer.metrics["with_boxes"] = float(boxes.num_items)
    writer.details["lists"] = {file.path.name: sha256_of(file.path) for file in lists}
    writer.metrics.update(
        items=float(len(photos)),
        quarantined=float(len(quarantine.rows)),
        quarantine_share=quarantine.share,
        blank_lines=float(sum(blank for _, blank in counts)),
    )
    _say(role, len(photos), quarantine)
    return _Keys(np.frombuffer(photos, np.uint64), np.frombuffer(captions, np.uint64))


def _take_in_one(row: ListItem | SetAside, source: PhotoSource, limits: PhotoLimits) -> Intake:
    if isinstance(row, SetAside):
        return row
    try:
        return row, normalize_photo(source.read(row, limits.max_bytes), limits)
    except PhotoError as error:
        return SetAside(row.list_name, row.line, row.id, str(error))


def _without_repeats(lists: list[ListFile]) -> Iterator[ListItem | SetAside]:
    """The lists' rows, an id that was there before set aside; memory holds eight bytes a row."""
    suspects = _repeated_keys(lists)
    seen: dict[str, str] = {}
    for row in _rows(lists):
        if isinstance(row, ListItem) and key_of(row.id) in suspects:
            place = f"{row.list_name}:{row.line}"
            first = seen.setdefault(row.id, place)
            if first != place:
                yield SetAside(row.list_name, row.line, row.id, f"duplicate id, first at {first}")
                continue
        yield row


def _repeated_keys(lists: list[ListFile]) -> set[int]:
    """The keys of ids that occur twice; in a million ids about no other id shares one."""
    keys = array("Q", (key_of(row.id) for row in _rows(lists) if isinstance(row, ListItem)))
    ordered = np.sort(np.frombuffer(keys, np.uint64))
    repeated: list[int] = ordered[1:][ordered[1:] == ordered[:-1]].tolist()
    return set(repeated)


def _rows(lists: list[ListFile]) -> Iterator[ListItem | SetAside]:
    return chain.from_iterable(map(read_list, lists))


def in_order(
    pool: ThreadPoolExecutor, work: Callable[[In], Out], inputs: Iterable[In], max_pending: int
) -> Iterator[Out]:
    """Results in the order of the inputs, with at most `max_pending` inputs read ahead."""
    pending: deque[Future[Out]] = deque()
    for value in inputs:
        pending.append(pool.submit(work, value))
        if len(pending) >= max_pending:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _group(writers: dict[Role, ArtifactWriter], keys: dict[Role, _Keys]) -> None:
    groups = duplicate_groups(
        np.concatenate([keys[role].photos for role in ROLES]),
        np.concatenate([keys[role].captions for role in ROLES]),
    )
    ends = np.cumsum([len(keys[role].photos) for role in ROLES])[:-1]
    for role, of_role in zip(ROLES, np.split(groups, ends), strict=True):
        set_columns(writers[role].folder, {"group": of_role})
        _, sizes = np.unique(of_role, return_counts=True)
        writers[role].metrics.update(
            groups=float(len(sizes)),
            duplicated_items=float(sizes[sizes > 1].sum()),
            largest_group=float(sizes.max()),
        )


def _split_queries(writer: ArtifactWriter, keys: _Keys, config: IngestionConfig) -> None:
    # Groups among the queries alone: new train items must not move a query to another split.
    groups = duplicate_groups(keys.photos, keys.captions)
    table = pq.read_table(writer.folder / ITEMS, columns=["id", "split"])
    ids, given = table["id"].to_pylist(), table["split"].to_pylist()
    splits = assign_splits(given, groups, ids, config.dev_share, config.seed)
    set_columns(writer.folder, {"split": splits})
    for split in ("dev", "test"):
        writer.metrics[split] = float(splits.count(split))


def _report_leaks(writers: dict[Role, ArtifactWriter], keys: dict[Role, _Keys]) -> None:
    prints = {}
    for role in ROLES:
        ids = pq.read_table(writers[role].folder / ITEMS, columns=["id"])["id"]
        prints[role] = Fingerprints(keys[role].photos, keys[role].captions, ids)
    folder = writers["queries"].folder
    splits = pq.read_table(folder / ITEMS, columns=["split"])["split"].to_numpy()
    writers["queries"].metrics.update(
        report_leakage(
            prints["train"], prints["gallery"], prints["queries"], splits == "dev", folder
        )
    )


def _report_labels(writers: dict[Role, ArtifactWriter]) -> None:
    gallery, queries = (
        pq.read_table(writers[role].folder / ITEMS, columns=["labels"])["labels"].to_pylist()
        for role in ("gallery", "queries")
    )
    known = {labels[0] for labels in gallery}
    wanted = {label for labels in queries for label in labels}
    absent = sorted(wanted - known)
    naming = count_naming_titles(_captions(writers["train"].folder), known | wanted)
    write_classes(writers["queries"].folder, naming)
    writers["queries"].metrics["classes_not_named_in_train"] = float(
        sum(not naming[label] for label in wanted)
    )
    writers["gallery"].metrics["classes"] = float(len(known))
    metrics = writers["queries"].metrics
    metrics["classes"] = float(len(wanted))
    metrics["labels_per_query"] = sum(map(len, queries)) / len(queries)
    metrics["classes_not_in_gallery"] = float(len(absent))
    metrics["queries_with_a_label_not_in_gallery"] = float(
        sum(not known.issuperset(labels) for labels in queries)
    )
    metrics["queries_without_a_label_in_gallery"] = float(
        sum(known.isdisjoint(labels) for labels in queries)
    )
    writers["queries"].details["classes_not_in_gallery"] = absent
    if absent:
        logger.warning(
            "%s: %d labels of the queries are not in the gallery, among them %s",
            STEP,
            len(absent),
            ", ".join(absent[:3]),
        )


def _captions(folder: Path) -> Iterator[str]:
    with pq.ParquetFile(folder / ITEMS) as table:
        for batch in table.iter_batches(columns=["caption"]):
            yield from batch["caption"].to_pylist()


def _content_digest(folder: Path) -> str:
    """Of what the items are, not of what is known about them: equal for equal data sets."""
    digest = hashlib.sha256()
    with pq.ParquetFile(folder / ITEMS) as table:
        for batch in table.iter_batches(columns=list(CONTENT)):
            for row in batch.to_pylist():
                digest.update(json.dumps([row[name] for name in CONTENT]).encode())
    return digest.hexdigest()


def _say(role: str, num_items: int, quarantine: Quarantine) -> None:
    if quarantine.rows:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in quarantine.most_frequent())
        logger.warning("%s %s: set aside %d: %s", STEP, role, len(quarantine.rows), reasons)
    logger.info("%s %s: %d items", STEP, role, num_items)
