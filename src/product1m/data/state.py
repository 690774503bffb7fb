"""The state of a data set's files as one digest, which is another if anything changed."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from product1m.data.content_hashes import content_hashes
from product1m.errors import DatasetError
from product1m.storage.base import Store, StoredFile, is_remote
from product1m.storage.folder import Folder
from product1m.storage.opening import open_store

LIST_SUFFIXES = (".jsonl", ".txt")
BACKGROUNDS = "backgrounds"
"""Folder of a data set with photos to paste on; optional, and no part of the data set's state."""
NO_BACKGROUNDS = "none"
"""State of background photos that a run does not have."""
_MD5 = re.compile("[0-9a-f]{32}")
_BLOCK_BYTES = 16 << 20
"""How much of a list is in memory at once (ours)."""


def data_store(uri: str) -> Store:
    """The folder or prefix, made absolute; DatasetError if the folder does not exist."""
    if is_remote(uri):
        return open_store(uri)
    folder = Path(uri.removeprefix("file://")).expanduser().resolve()
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder")
    return Folder(folder)


def state_of(
    dataset: str, backgrounds: str = "", stated: str = "", stated_backgrounds: str = ""
) -> dict[str, str]:
    """`dataset_digest` of the lists and photos, `backgrounds_digest` of the background photos.

    Args:
        dataset: folder or `s3://` prefix.
        backgrounds: the same, or empty: without background photos their state is `none`.
        stated: a name for the state of the data; the data are then not read.
        stated_backgrounds: the same for the background photos.
    """
    leave_out = f"{BACKGROUNDS}/"
    photos = stated_backgrounds or NO_BACKGROUNDS
    if backgrounds and not stated_backgrounds:
        photos = data_digest(data_store(backgrounds))
    return {
        "dataset_digest": stated or data_digest(data_store(dataset), leave_out),
        "backgrounds_digest": photos,
    }


def data_digest(data: Store, leave_out: str = "") -> str:
    """Digest of the names and contents of all files; dates do not matter.

    It is the same for a folder and its copy below a prefix, unless objects were uploaded in parts,
    whose ETags are not MD5. The SHA-256 numbers of the files are added, so their order does not
    matter and none stays in memory. Skips names that start with `leave_out`.
    """
    files = (file for file in data.files() if not (leave_out and file.name.startswith(leave_out)))
    total = 0
    for name, fact in _contents(data, files):
        digest = hashlib.sha256(f"{name}\0{fact}".encode()).digest()
        total = (total + int.from_bytes(digest, "big")) % (1 << 256)
    return f"{total:064x}"


def holds_files(data: Store) -> bool:
    """Whether there is at least one file."""
    return next(iter(data.files()), None) is not None


def _contents(data: Store, files: Iterator[StoredFile]) -> Iterator[tuple[str, str]]:
    """Every file with a fact that changes when its content changes."""
    if isinstance(data, Folder):
        yield from content_hashes(data.root, (file.name for file in files))
        return
    for file in files:
        if _is_list(file.name) and not _MD5.fullmatch(file.etag):
            yield file.name, _content_digest(data, file.name)
        else:
            yield file.name, file.etag or str(file.num_bytes)


def _is_list(name: str) -> bool:
    return "/" not in name and name.endswith(LIST_SUFFIXES)


def _content_digest(data: Store, name: str) -> str:
    digest = hashlib.md5(usedforsecurity=False)  # as for a folder's files
    start = 0
    while block := data.read_range(name, start, _BLOCK_BYTES):
        digest.update(block)
        start += len(block)
    return digest.hexdigest()
