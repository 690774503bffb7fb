"""Hashes of the files of a local folder, kept so that an unchanged folder is read only once.

The hash is MD5, because object stores report it for ordinary objects: a folder and its copy in a
store have the same state. It detects changes and does not protect against manipulation.
"""

import contextlib
import hashlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from product1m.errors import StorageError
from product1m.storage.disk import explain

logger = logging.getLogger(__name__)

FOLDER = "product1m/content-hashes"
"""Below `$XDG_CACHE_HOME`, else `~/.cache`."""
SETTLED_S = 2.0
"""A file that was changed less than this long ago may change again without a new time (ours)."""
_BATCH = 1024
_READERS = 8
_SCHEMA = "create table if not exists hashes (name text primary key, stamp text, md5 text)"


def content_hashes(
    root: Path, files: Iterator[tuple[str, os.stat_result]]
) -> Iterator[tuple[str, str]]:
    """The MD5 of each file below `root`, given by name and state, with its name.

    A file is read only if its size, times or inode differ from when it was hashed. If the hashes
    cannot be kept, every file is read.

    Raises StorageError for a file that cannot be read or no longer exists.
    """
    with (
        _reading_explained(root),
        _kept(root) as kept,
        ThreadPoolExecutor(_READERS, "hashing") as pool,
    ):
        while batch := {name: _stamp(state) for name, state in islice(files, _BATCH)}:
            known = _look_up(kept, batch)
            unknown = [name for name in batch if name not in known]
            new = dict(zip(unknown, pool.map(_md5, [root / name for name in unknown]), strict=True))
            _keep(kept, root, {name: (batch[name], md5) for name, md5 in new.items()})
            yield from known.items()
            yield from new.items()


@contextlib.contextmanager
def _reading_explained(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = explain(error, [root]) or f"{error.filename}: cannot be read: {error.strerror}"
        raise StorageError(str(reason)) from error


@contextlib.contextmanager
def _kept(root: Path) -> Iterator[sqlite3.Connection]:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / FOLDER
    path = folder / f"{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:32]}.sqlite"
    try:
        path = path.expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=30)
        connection.execute(_SCHEMA)
    except (OSError, RuntimeError, sqlite3.Error) as error:  # RuntimeError: no home folder
        logger.warning("%s: cannot keep hashes of the data (%s); reading every file", path, error)
        connection = sqlite3.connect(":memory:")
        connection.execute(_SCHEMA)
    with contextlib.closing(connection):
        yield connection


def _look_up(kept: sqlite3.Connection, stamps: dict[str, str]) -> dict[str, str]:
    marks = ",".join("?" * len(stamps))
    try:
        rows = kept.execute(f"select * from hashes where name in ({marks})", list(stamps))  # noqa: S608
        return {name: md5 for name, stamp, md5 in rows if stamps[name] == stamp}
    except sqlite3.Error:  # another process holds it, or it is damaged: read the files
        return {}


def _keep(kept: sqlite3.Connection, root: Path, hashed: dict[str, tuple[str, str]]) -> None:
    """Keep the hashes of files that did not change while they were read."""
    now = time.time()
    rows = [
        (name, stamp, md5)
        for name, (stamp, md5) in hashed.items()
        if _stamp(state := (root / name).stat()) == stamp
        and max(state.st_mtime, state.st_ctime) < now - SETTLED_S
    ]
    with contextlib.suppress(sqlite3.Error), kept:
        kept.executemany("insert or replace into hashes values (?, ?, ?)", rows)


def _stamp(state: os.stat_result) -> str:
    return f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns} {state.st_ino}"


def _md5(path: Path) -> str:
    try:
        return _md5_of_file(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a failing disk names no file
        raise


def _md5_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
