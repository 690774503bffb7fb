"""The state of a data set's files as one digest, which is another if anything changed."""

import hashlib
import os
import re
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

from product1m.data.content_hashes import content_hashes
from product1m.data.in_order import in_order
from product1m.errors import DatasetError
from product1m.storage.base import Store, is_remote
from product1m.storage.folder import Folder
from product1m.storage.opening import open_store
from product1m.storage.s3_listing import ListingPage
from product1m.telemetry.processes import end_with_parent

LIST_SUFFIXES = (".jsonl", ".txt")
BACKGROUNDS = "backgrounds"
"""Folder of a data set with photos to paste on; optional, and no part of the data set's state."""
NO_BACKGROUNDS = "none"
"""State of background photos that a run does not have."""
_MD5 = re.compile("[0-9a-f]{32}")
_BLOCK_BYTES = 16 << 20
"""How much of a list is in memory at once (ours)."""
_PAGES_IN_PROCESS = 100
"""Pages of a listing that this process parses itself, in about a second (ours)."""
_PROCESSES = 2
"""That parse the other pages while this one fetches (ours)."""


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
    if isinstance(data, Folder):
        files = data.states()
        if leave_out:
            files = (file for file in files if not file[0].startswith(leave_out))
        total = _sum_of(content_hashes(data.root, files))
    else:
        total = _sum_of_objects(data, leave_out)
    return f"{total % (1 << 256):064x}"


def holds_files(data: Store) -> bool:
    """Whether there is at least one file."""
    return next(iter(data.files()), None) is not None


def _sum_of_objects(data: Store, leave_out: str) -> int:
    """The sum for a prefix; pages are parsed in other processes once there are many."""
    from product1m.storage.s3 import S3Prefix

    assert isinstance(data, S3Prefix)
    pages = data.pages()
    sum_of_page = partial(_sum_of_page, leave_out=leave_out)
    sums = [*map(sum_of_page, islice(pages, _PAGES_IN_PROCESS))]
    if len(sums) == _PAGES_IN_PROCESS:
        spawn = get_context("spawn")
        with ProcessPoolExecutor(
            _PROCESSES, spawn, initializer=end_with_parent, initargs=(os.getpid(),)
        ) as pool:
            sums += in_order(pool, sum_of_page, pages, _PROCESSES)
    read = [name for _, names in sums for name in names]
    return sum(number for number, _ in sums) + _sum_of(
        (name, _content_digest(data, name)) for name in read
    )


def _sum_of_page(page: ListingPage, leave_out: str) -> tuple[int, list[str]]:
    """The sum for a page's objects, and names of lists whose contents must be read for theirs."""
    facts, read = [], []
    for name, etag in page.etags():
        if leave_out and name.startswith(leave_out):
            continue
        if _is_list(name) and not _MD5.fullmatch(etag):
            read.append(name)
        else:
            facts.append((name, etag))
    return _sum_of(facts), read


def _sum_of(facts: Iterable[tuple[str, str]]) -> int:
    """Of the SHA-256 numbers of files, of each its name and what changes with its content."""
    return sum(
        int.from_bytes(hashlib.sha256(f"{name}\0{fact}".encode()).digest(), "big")
        for name, fact in facts
    )


def _is_list(name: str) -> bool:
    return "/" not in name and name.endswith(LIST_SUFFIXES)


def _content_digest(data: Store, name: str) -> str:
    digest = hashlib.md5(usedforsecurity=False)  # as for a folder's files
    start = 0
    while block := data.read_range(name, start, _BLOCK_BYTES):
        digest.update(block)
        start += len(block)
    return digest.hexdigest()
