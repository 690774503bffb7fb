"""Read lists and photos into `train`, `gallery` and `queries`; every photo is decoded once."""

import logging
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from product1m.artifacts.folder import ArtifactWriter
from product1m.artifacts.work import work_root
from product1m.config import IngestionConfig
from product1m.data.boxes import (
    BOXES_LIST,
    Box,
    BoxError,
    BoxTable,
    check_box_labels,
    check_boxes,
)
from product1m.data.checking import Checked, check_item, erased_photos, original_px
from product1m.data.class_names import count_naming_titles, write_classes
from product1m.data.duplicates import Keys, assign_splits, duplicate_groups, key_of, numbers_by_list
from product1m.data.early_checks import (
    SPLITS,
    check_labels,
    check_splits,
    check_train_groups,
    near_label,
)
from product1m.data.in_order import in_order
from product1m.data.intake import StoredPhoto, unrestricted_pillow
from product1m.data.items import ITEMS, ItemWriter, content_digest, set_columns
from product1m.data.known_boxes import KnownBoxes, read_boxes
from product1m.data.leakage import Fingerprints, report_leakage
from product1m.data.limits import PhotoLimits, PixelBudget
from product1m.data.lists import (
    ROLES,
    ListFile,
    RejectedLine,
    Role,
    count_lines,
    find_lists,
)
from product1m.data.photo_sources import PhotoSource, local_lists, photos_of
from product1m.data.quarantine import Quarantine
from product1m.data.rows import Row, distinct_rows
from product1m.data.sample_mark import SAMPLE_DATA, is_sample
from product1m.steps.bracket import open_step_with_parts
from product1m.storage.base import sha256_of
from product1m.storage.opening import open_store
from product1m.telemetry.progress import track

logger = logging.getLogger(__name__)

STEP = "ingestion"


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
    or `$PRODUCT1M_WORK`, so that another attempt does not download them again.

    Raises DatasetError if lists are missing, a list has no usable item, or too many items are
    quarantined.
    """
    kept = storage_root or str(work_root(train))
    folders = {"train": train, "gallery": gallery, "queries": queries}
    with (
        open_step_with_parts(STEP, config, folders, storage_root) as step,
        local_lists(dataset, config.allowed_sources) as list_folder,
        unrestricted_pillow(),
        ThreadPoolExecutor(config.num_workers) as pool,
    ):
        source = photos_of(dataset, kept, config)
        store = open_store(dataset)
        erased, has_sample_data = erased_photos(store), is_sample(store)
        lists = find_lists(list_folder, dataset)
        writers = {role: step.writers[role] for role in ROLES}
        keys = {
            role: _ingest(lists[role], source, pool, writers[role], config, erased)
            for role in ROLES
        }
        _group(writers, keys)
        _split_queries(writers["queries"], keys["queries"], config)
        _report_leaks(writers, keys)
        _report_labels(writers)
        for writer in writers.values():
            writer.details["content"] = content_digest(writer.folder)
            writer.details[SAMPLE_DATA] = has_sample_data
    return step.all_metrics()


@dataclass(frozen=True)
class _Keys:
    photos: Keys
    captions: Keys


def _ingest(
    lists: list[ListFile],
    source: PhotoSource,
    pool: ThreadPoolExecutor,
    writer: ArtifactWriter,
    config: IngestionConfig,
    erased: frozenset[str],
) -> _Keys:
    """Write the items of a role's lists; returns what identifies their photos and captions."""
    role = lists[0].role
    counts = [count_lines(file.path) for file in lists]
    num_rows, num_blank = map(sum, zip(*counts, strict=True))
    quarantine = Quarantine(role, num_rows, config.max_quarantine_share)
    limits, budget = PhotoLimits.from_config(config), PixelBudget(config.max_photo_pixels)

    def check(row: Row) -> Checked:
        return check_item(row, source, limits, budget, config.max_title_bytes, erased)

    checked = in_order(pool, check, distinct_rows(lists), config.num_workers)
    checked = track(checked, f"{STEP} {role}", num_rows)
    known, rejected = read_boxes(lists[0].path.parent) if role == "queries" else ({}, [])
    quarantine.add_all(rejected)
    boxes = BoxTable()
    keys = _write_items(checked, writer, quarantine, boxes, known, config.shard_mib)
    quarantine.require_items(len(keys.photos), lists[0].path)
    _report_unknown_boxes(known, writer.folder, quarantine)
    quarantine.write(writer.folder)
    boxes.write(writer.folder)
    if role == "queries":
        writer.metrics["with_boxes"] = float(boxes.num_items)
        writer.metrics["with_box_labels"] = float(boxes.num_labeled)
    writer.details["lists"] = {file.path.name: sha256_of(file.path) for file in lists}
    writer.metrics.update(
        items=float(len(keys.photos)),
        quarantined=float(len(quarantine.rows)),
        quarantine_share=quarantine.share,
        blank_lines=float(num_blank),
    )
    _log_counts(role, len(keys.photos), quarantine)
    return keys


def _write_items(
    checked: Iterable[Checked],
    writer: ArtifactWriter,
    quarantine: Quarantine,
    boxes: BoxTable,
    known: Mapping[str, KnownBoxes],
    shard_mib: int,
) -> _Keys:
    photos, captions = array("Q"), array("Q")
    with ItemWriter(writer.folder, shard_mib=shard_mib, store=writer.store) as items:
        for row in checked:
            if isinstance(row, RejectedLine):
                quarantine.add(row)
                continue
            item, photo = row
            size_px = (photo.width, photo.height)
            item_boxes, box_labels = (
                (item.boxes, item.box_labels)
                if item.boxes
                else _known_boxes(known.get(item.id), item.labels, photo, quarantine)
            )
            boxes.add(len(items), item_boxes, size_px, photo.downscaled, box_labels)
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
    return _Keys(np.frombuffer(photos, np.uint64), np.frombuffer(captions, np.uint64))


def _known_boxes(
    known: KnownBoxes | None,
    labels: Sequence[str],
    photo: StoredPhoto,
    quarantine: Quarantine,
) -> tuple[Sequence[Box], Sequence[str]]:
    """Boxes and labels that `boxes.jsonl` has for a photo; implausible ones are quarantined."""
    if known is None:
        return (), ()
    try:
        check_boxes(known.boxes, *original_px(photo))
        check_box_labels(known.labels, labels)
    except BoxError as error:
        quarantine.add(known.rejected(str(error)))
        return (), ()
    return known.boxes, known.labels


def _report_unknown_boxes(
    known: Mapping[str, KnownBoxes], folder: Path, quarantine: Quarantine
) -> None:
    """Warn if `boxes.jsonl` has boxes of ids that are in no list of queries."""
    if not known:
        return
    ids = set(pq.read_table(folder / ITEMS, columns=["id"])["id"].to_pylist())
    ids.update(row.id for row in quarantine.rows)
    unknown = [boxes for boxes in known.values() if boxes.id not in ids]
    if unknown:
        logger.warning(
            "%s: %d of %d lines of %s have an id that no query has, for example line %d: %r",
            STEP,
            len(unknown),
            len(known),
            BOXES_LIST,
            unknown[0].line,
            unknown[0].id,
        )


def _group(writers: dict[Role, ArtifactWriter], keys: dict[Role, _Keys]) -> None:
    groups = duplicate_groups(
        np.concatenate([keys[role].photos for role in ROLES]),
        np.concatenate([keys[role].captions for role in ROLES]),
    )
    lengths = [len(keys[role].photos) for role in ROLES]
    numbers = np.split(numbers_by_list(groups, lengths), np.cumsum(lengths)[:-1])
    for role, role_groups in zip(ROLES, numbers, strict=True):
        set_columns(writers[role].folder, {"group": role_groups})
        _, sizes = np.unique(role_groups, return_counts=True)
        writers[role].metrics.update(
            groups=float(len(sizes)),
            duplicated_items=float(sizes[sizes > 1].sum()),
            largest_group=float(sizes.max()),
        )
    check_train_groups(len(keys["train"].photos), int(writers["train"].metrics["groups"]))


def _split_queries(writer: ArtifactWriter, keys: _Keys, config: IngestionConfig) -> None:
    # Groups among the queries alone: new train items must not move a query to another split.
    groups = duplicate_groups(keys.photos, keys.captions)
    table = pq.read_table(writer.folder / ITEMS, columns=["id", "split"])
    ids, given = table["id"].to_pylist(), table["split"].to_pylist()
    splits = assign_splits(given, groups, ids, config.dev_share, config.seed)
    check_splits(given, splits, len(set(groups.tolist())), config.dev_share)
    set_columns(writer.folder, {"split": splits})
    for split in SPLITS:
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
        pq.read_table(writers[role].folder / ITEMS, columns=["id", "labels", "split"]).to_pylist()
        for role in ("gallery", "queries")
    )
    known = {item["labels"][0] for item in gallery}
    by_split = {
        split: [(f"query {q['id']}", q["labels"]) for q in queries if q["split"] == split]
        for split in SPLITS
    }
    check_labels(by_split, known)
    labels_of = [query["labels"] for query in queries]
    wanted = {label for labels in labels_of for label in labels}
    absent = sorted(wanted - known)
    naming = count_naming_titles(_captions(writers["train"].folder), known | wanted)
    write_classes(writers["queries"].folder, naming)
    writers["queries"].metrics["classes_not_named_in_train"] = float(
        sum(not naming[label] for label in wanted)
    )
    writers["gallery"].metrics["classes"] = float(len(known))
    metrics = writers["queries"].metrics
    metrics["classes"] = float(len(wanted))
    metrics["labels_per_query"] = sum(map(len, labels_of)) / len(labels_of)
    metrics["classes_not_in_gallery"] = float(len(absent))
    metrics["queries_with_a_label_not_in_gallery"] = float(
        sum(not known.issuperset(labels) for labels in labels_of)
    )
    metrics["queries_without_a_label_in_gallery"] = float(
        sum(known.isdisjoint(labels) for labels in labels_of)
    )
    writers["queries"].details["classes_not_in_gallery"] = absent
    if absent:
        logger.warning(
            "%s: %d labels of the queries are not in the gallery, for example %s",
            STEP,
            len(absent),
            ", ".join(_with_nearest(label, known) for label in absent[:3]),
        )


def _with_nearest(label: str, known: Collection[str]) -> str:
    near = near_label(label, known)
    return f"{label!r} (the nearest is {near!r})" if near else repr(label)


def _captions(folder: Path) -> Iterator[str]:
    with pq.ParquetFile(folder / ITEMS) as table:
        for batch in table.iter_batches(columns=["caption"]):
            yield from batch["caption"].to_pylist()


def _log_counts(role: str, num_items: int, quarantine: Quarantine) -> None:
    if quarantine.rows:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in quarantine.most_frequent())
        num_rejected = len(quarantine.rows)
        logger.warning("%s %s: %d items quarantined: %s", STEP, role, num_rejected, reasons)
    logger.info("%s %s: %d items", STEP, role, num_items)
