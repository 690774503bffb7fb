"""Items to add to a catalogue, their photos checked and stored as ingestion stores them."""

import json
from collections.abc import Iterator
from pathlib import Path

from product1m.catalogue.listing import gallery_list
from product1m.catalogue.store import LIST, NewItem, line_of
from product1m.config import IngestionConfig
from product1m.data.intake import normalize_photo
from product1m.data.limits import PhotoLimits, title_fault
from product1m.data.lists import ListFile, RejectedLine, clean_caption, parse_line
from product1m.data.photo_sources import local_lists, photos_of
from product1m.data.rows import distinct_rows
from product1m.errors import DatasetError, PhotoError, StorageError
from product1m.storage.opening import read_file

LIMITS = IngestionConfig()
"""What a photo and a title may be, unless the caller names other settings."""


def from_photo(
    photo: Path, item: str, title: str, label: str = "", limits: IngestionConfig = LIMITS
) -> NewItem:
    """An item from a photo file; DatasetError with the reason if it cannot be used."""
    try:
        raw = read_file(photo, limits.max_photo_bytes)
    except StorageError as error:
        raise DatasetError(f"--photo {error}") from error
    return _new(item, title, (label or item,), raw, limits)


def from_dataset(dataset: str, limits: IngestionConfig = LIMITS) -> Iterator[NewItem]:
    """The gallery items of a data set; DatasetError names the first line that cannot be used."""
    photos = photos_of(dataset, dataset, limits)
    with local_lists(dataset, limits.allowed_sources) as folder:
        for row in distinct_rows([gallery_list(folder, dataset)]):
            if isinstance(row, RejectedLine):
                raise DatasetError(str(row))
            raw = photos.read(row, limits.max_photo_bytes)
            yield _new(row.id, row.caption, row.labels, raw, limits)


def _new(
    item: str, title: str, labels: tuple[str, ...], raw: bytes, limits: IngestionConfig
) -> NewItem:
    caption = clean_caption(title)
    fault = title_fault(title, limits.max_title_bytes) or ("" if caption else "empty")
    if fault:
        raise DatasetError(f"item {item}: title: {fault}")
    try:
        photo = normalize_photo(raw, PhotoLimits.from_config(limits))
    except PhotoError as error:
        raise DatasetError(f"item {item}: {error}") from error
    new = NewItem(item, caption, labels, photo)
    _require_readable(new)
    return new


def _require_readable(item: NewItem) -> None:
    """DatasetError if a step that reads the list would reject the item's line."""
    line = json.dumps(line_of(item)).encode()
    row = parse_line(line, 1, ListFile(Path(LIST), "gallery"))
    if isinstance(row, RejectedLine):
        raise DatasetError(f"item {item.id}: {row.reason}")
