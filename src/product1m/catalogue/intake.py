"""Take in the items of a gallery list that are new or changed; all others are known already."""

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from product1m.artifacts.folder import Artifact, open_artifact, write_artifact
from product1m.catalogue.listing import Listing, gallery_list, stamped
from product1m.config import IngestionConfig
from product1m.data.checking import Checked, check_item, erased_photos
from product1m.data.in_order import in_order
from product1m.data.intake import unrestricted_pillow
from product1m.data.items import ItemWriter, read_items
from product1m.data.limits import PhotoLimits, PixelBudget
from product1m.data.lists import ListItem, RejectedLine
from product1m.data.photo_sources import local_lists, photos_of
from product1m.data.quarantine import Quarantine
from product1m.retrieval.index import GALLERY
from product1m.storage.opening import open_store
from product1m.telemetry.progress import track

SOURCES = "sources.json"
"""Item id to the stamp of its line and photo, beside the index of a catalogue."""
COLUMNS = ["id", "caption", "labels", "sha256"]


@dataclass(frozen=True)
class Intake:
    """The items that the catalogue should have."""

    rows: pd.DataFrame
    """Columns id, caption, labels, sha256 (of the stored photo), in the order of the list."""
    stamps: dict[str, str]
    """Stamp of each item in `rows`."""
    read: Artifact
    """The items whose photos were read, an artifact of ingestion."""
    rejected: list[RejectedLine]
    """Lines that are no items; too many of them are an error."""


def take_in(
    dataset: str, before: Artifact | None, config: IngestionConfig, kept: str, folder: Path
) -> Intake:
    """Read a data set's gallery list, and the photos of items that are new or changed.

    Args:
        dataset: folder or `s3://` prefix with a gallery list.
        before: the catalogue that is refreshed.
        config: how photos are read, as when the model was trained.
        kept: where downloaded photos are kept.
        folder: to write the photos to.

    Raises DatasetError if there is no list, no usable item, or too many lines are rejected.
    """
    store = open_store(dataset)
    known, stamps = _known(before, erased_photos(store))
    with local_lists(dataset, config.allowed_sources) as lists:
        source = gallery_list(lists, dataset)
        listed = list(stamped(source, store))
        quarantine = Quarantine("gallery", len(listed), config.max_quarantine_share)
        wanted = {row.item.id: row.stamp for row in listed if isinstance(row, Listing)}
        changed = [
            row.item
            for row in listed
            if isinstance(row, Listing) and stamps.get(row.item.id) != row.stamp
        ]
        for row in listed:
            if isinstance(row, RejectedLine):
                quarantine.add(row)
        _read_photos(changed, dataset, config, kept, folder, quarantine)
    read = open_artifact(folder, "ingestion", "gallery")
    new = read_items(read)[COLUMNS]
    unchanged = wanted.keys() - {item.id for item in changed}
    rows = pd.concat([known[known["id"].isin(unchanged)], new], ignore_index=True)
    quarantine.require_items(len(rows), source.path)
    place = {item: number for number, item in enumerate(wanted)}
    rows = rows.iloc[rows["id"].map(place).argsort(kind="stable")].reset_index(drop=True)
    return Intake(rows, {item: wanted[item] for item in rows["id"]}, read, quarantine.rows)


def _known(before: Artifact | None, erased: frozenset[str]) -> tuple[pd.DataFrame, dict[str, str]]:
    """The rows of a catalogue and their stamps, without erased photos."""
    if before is None:
        return pd.DataFrame(columns=COLUMNS), {}
    rows = read_rows(before)
    rows = rows[~rows["sha256"].isin(erased)]
    stamps: dict[str, str] = json.loads(before.file(SOURCES).read_text("utf-8"))
    return rows[COLUMNS], {item: stamps[item] for item in rows["id"]}


def read_rows(catalogue: Artifact) -> pd.DataFrame:
    """The table of a catalogue's items, `labels` as lists."""
    rows: pd.DataFrame = pq.read_table(catalogue.file(GALLERY)).to_pandas()
    rows["labels"] = [list(labels) for labels in rows["labels"]]
    # The type that the first catalogue was written with: the digest of the file depends on it.
    return rows.astype(dict.fromkeys(("id", "caption", "sha256"), object))


def _read_photos(
    items: Iterable[ListItem],
    dataset: str,
    config: IngestionConfig,
    kept: str,
    folder: Path,
    quarantine: Quarantine,
) -> None:
    """Write the usable items with their photos to an artifact of ingestion."""
    limits, budget = PhotoLimits.from_config(config), PixelBudget(config.max_photo_pixels)
    photos, erased = photos_of(dataset, kept, config), erased_photos(open_store(dataset))
    items = list(items)

    def check(item: ListItem) -> Checked:
        return check_item(item, photos, limits, budget, config.max_title_bytes, erased)

    with (
        unrestricted_pillow(),
        ThreadPoolExecutor(config.num_workers) as pool,
        write_artifact(folder, "ingestion", config, part="gallery") as writer,
        ItemWriter(writer.folder) as written,
    ):
        checked: Iterator[Checked] = in_order(pool, check, items, config.num_workers)
        for row in track(checked, "photos of new and changed items", len(items)):
            if isinstance(row, RejectedLine):
                quarantine.add(row)
                continue
            item, photo = row
            written.add(
                item.id,
                photo.encoded,
                (photo.width, photo.height),
                caption=item.caption,
                labels=list(item.labels),
            )
