"""The data of a run: checked before any work, and digested so that changed data voids the cache."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from pipelines.graph.content_hashes import content_hashes
from product1m.data.lists import find_lists
from product1m.data.photo_sources import list_names
from product1m.errors import DatasetError
from product1m.storage.base import Store, StoredFile, is_remote
from product1m.storage.folder import Folder
from product1m.storage.opening import open_store

LIST_SUFFIXES = (".jsonl", ".txt")
BACKGROUNDS = "backgrounds"
"""Folder of a data set with photos to paste on; optional."""
_MD5 = re.compile("[0-9a-f]{32}")
_BLOCK_BYTES = 16 << 20
"""How much of a list is in memory at once (ours)."""


def data_parameters(dataset: str, backgrounds: str = "") -> dict[str, str]:
    """The pipeline's data parameters; DatasetError before any work if the data does not exist.

    Without `backgrounds` the data set's own `backgrounds/` is used if it exists.
    """
    data = check_dataset(dataset)
    own = open_store(f"{data.uri}/{BACKGROUNDS}")
    photos: Store | None = own if _holds_files(own) else None
    if backgrounds:
        photos = existing(backgrounds, "--backgrounds")
    return {
        "dataset_uri": data.uri,
        "dataset_digest": data_digest(data, leave_out=f"{BACKGROUNDS}/"),
        "backgrounds_uri": photos.uri if photos else "",
        "backgrounds_digest": data_digest(photos) if photos else "",
    }


def stated_parameters(dataset: str, backgrounds: str, digest: str) -> dict[str, str]:
    """The same without reading the data, whose state is named by `digest`."""
    return {
        "dataset_uri": dataset,
        "dataset_digest": digest,
        "backgrounds_uri": backgrounds,
        "backgrounds_digest": digest,
    }


def check_dataset(dataset: str) -> Store:
    """The data set's folder or prefix; DatasetError if it is absent or holds no lists."""
    data = existing(dataset, "--dataset")
    if isinstance(data, Folder):
        find_lists(data.root)
    else:
        find_lists(Path(), data.uri, list_names(data))
    return data


def existing(uri: str, option: str) -> Store:
    """The folder or prefix, made absolute; DatasetError names the option it came from."""
    if is_remote(uri):
        return open_store(uri)
    folder = Path(uri.removeprefix("file://")).expanduser().resolve()
    if not folder.is_dir():
        raise DatasetError(f"{option} {folder}: no such folder")
    return Folder(folder)


def data_digest(data: Store, leave_out: str = "") -> str:
    """Digest of the data: names and contents of all files, whatever their dates.

    The same for a folder and for its copy below a prefix, unless objects were uploaded in parts:
    their ETags are no MD5. The files' SHA-256 are added up, so their order does not matter and none
    are kept in memory. Skips names starting with `leave_out`.
    """
    files = (file for file in data.files() if not (leave_out and file.name.startswith(leave_out)))
    total = 0
    for name, fact in _contents(data, files):
        digest = hashlib.sha256(f"{name}\0{fact}".encode()).digest()
        total = (total + int.from_bytes(digest, "big")) % (1 << 256)
    return f"{total:064x}"


def _contents(data: Store, files: Iterator[StoredFile]) -> Iterator[tuple[str, str]]:
    """Every file with what changes with its content."""
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


def _holds_files(data: Store) -> bool:
    return next(iter(data.files()), None) is not None
