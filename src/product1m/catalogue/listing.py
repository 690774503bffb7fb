"""The gallery list of a data set, with a stamp for each item that changes when the item does.

Only the list is read and the photos' names are listed, so that an unchanged item costs no reading
of its photo.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from product1m.data.lists import (
    JSON_LINES_LIST,
    PHOTO_FOLDER,
    PRODUCT1M_LIST,
    ListFile,
    ListItem,
    RejectedLine,
)
from product1m.data.rows import distinct_rows
from product1m.errors import DatasetError
from product1m.storage.base import Store, StoredFile

GALLERY_LISTS = (JSON_LINES_LIST.format("gallery"), PRODUCT1M_LIST.format("gallery"))
"""Names of a gallery list in either format."""


@dataclass(frozen=True)
class Listing:
    """An item of the list."""

    item: ListItem
    stamp: str
    """Digest of the line and of what the store says about the photo: size, and ETag or time."""


def gallery_list(folder: Path, address: str) -> ListFile:
    """The gallery's list in a folder; DatasetError unless there is exactly one.

    `address` is how the error names the data set.
    """
    names = [name for name in GALLERY_LISTS if (folder / name).is_file()]
    if len(names) != 1:
        raise DatasetError(
            f"{address}: expected one gallery list, {' or '.join(GALLERY_LISTS)}, got "
            f"{' and '.join(names) or 'none'}"
        )
    return ListFile(folder / names[0], "gallery")


def stamped(source: ListFile, photos: Store) -> Iterator[Listing | RejectedLine]:
    """Every line of a gallery list with its stamp, in order; an id that occurred is rejected."""
    facts = _photo_facts(photos)
    for row in distinct_rows([source]):
        yield row if isinstance(row, RejectedLine) else Listing(row, _stamp(row, facts, photos))


def _photo_facts(photos: Store) -> dict[str, list[str]]:
    """What the store says about the files in `images/`, by their name without its suffix."""
    facts: defaultdict[str, list[str]] = defaultdict(list)
    for file in photos.files(f"{PHOTO_FOLDER}/"):
        facts[_stem(file.name)].append(f"{file.name} {_state(file, photos)}")
    return facts


def _stamp(item: ListItem, facts: dict[str, list[str]], photos: Store) -> str:
    name = item.image or f"{PHOTO_FOLDER}/{item.id}."
    own = facts.get(_stem(name), [])
    if not own and item.image and "://" not in item.image:  # elsewhere in the data set
        own = [_state(file, photos) for file in photos.files(item.image)]
    line = [item.caption, item.labels, item.image, item.urls, sorted(own)]
    return hashlib.sha256(json.dumps(line).encode()).hexdigest()


def _stem(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.with_name(path.name.rpartition(".")[0] or path.name))


def _state(file: StoredFile, photos: Store) -> str:
    """Changes with a photo's content: its size, with the ETag, or the time of a file."""
    path = photos.local(file.name)
    changed = path.stat().st_mtime_ns if path else file.etag
    return f"{file.num_bytes} {changed}"
