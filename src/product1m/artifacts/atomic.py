"""Files and folders that appear whole or not at all, also when the process is killed.

They are written under a hidden name beside their place, flushed to the disk, and renamed. A folder
that is replaced is renamed aside first, so that the old or the new one is there at every moment:

- `.NAME.partial` is not finished; the next writer removes it.
- `.NAME.older` was renamed aside by a process that was killed before its next rename: the new one
  is finished and still `.NAME.partial`; the next reader or writer puts it in place.
- `.removing-NAME` is being removed; the next writer goes on.
- `.NAME.lock` is held by a running writer, or a killed one left it; the next writer takes it over.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from product1m.errors import LockedError, StorageError
from product1m.storage.folder import hidden_beside
from product1m.storage.locks import only_writer

REMOVING = ".removing-"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to; it becomes `path` when the block ends without an error.

    An older file at `path` is replaced. One writer at a time: writers of one path share the name.
    """
    with hidden_beside(path) as partial:
        yield partial
        flush(partial)
        partial.replace(path)
        _flush_folder(path.parent)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `folder` when the block ends without an error.

    An older `folder` is replaced then; missing parents are created. LockedError if another process
    is writing it.
    """
    target = folder.resolve()
    with only_writer(target):
        _recover(target)
        with hidden_beside(target) as partial:
            partial.mkdir()
            yield partial
            flush(partial)
            if _has_content(target):
                target.rename(_older(target))
            partial.rename(target)
            _flush_folder(target.parent)
            _drop(target)


def recover_replaced(folder: Path) -> None:
    """Finish a replacement of `folder` that was interrupted between its two renames."""
    target = folder.resolve()
    if not _older(target).exists():
        return
    with contextlib.suppress(LockedError), only_writer(target):
        _recover(target)


def replace_damaged(folder: Path) -> None:
    """Put a finished `.NAME.partial` in the place of a folder of which only parts are left."""
    target = folder.resolve()
    with only_writer(target):
        target.rename(_older(target))
        _recover(target)


def partial_of(folder: Path) -> Path:
    """Where a folder is written before it appears."""
    target = folder.resolve()
    return target.with_name(f".{target.name}.partial")


def remove_folder(folder: Path) -> None:
    """Remove a folder, if there is one; after a kill it is still whole, or gone."""
    gone = folder.with_name(f"{REMOVING}{folder.name}")
    shutil.rmtree(gone, ignore_errors=True)
    if folder.exists():
        folder.rename(gone)
        shutil.rmtree(gone)


def finish_removals(parent: Path) -> None:
    """Remove what killed processes left of folders below `parent` that they were removing."""
    for gone in parent.glob(f"{REMOVING}*"):
        shutil.rmtree(gone, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file that appears whole."""
    with whole_file(path) as partial:
        partial.write_text(text, "utf-8")


def flush(path: Path) -> None:
    """Make the system write a file, or a folder with everything below it, to the disk."""
    if not path.is_dir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
        return
    for child in path.iterdir():
        flush(child)
    _flush_folder(path)


def require_unused(folder: Path) -> None:
    """Raise StorageError unless `folder` is missing or an empty folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StorageError(f"{folder}: not an empty folder; remove it or choose another one")


def _recover(target: Path) -> None:
    older, partial = _older(target), partial_of(target)
    if older.exists() and not _has_content(target):
        (partial if partial.exists() else older).rename(target)
    _drop(target)


def _drop(target: Path) -> None:
    """Remove what `target` replaced; renamed first, so that `.older` is always whole."""
    gone = target.with_name(f"{REMOVING}{target.name}")
    shutil.rmtree(gone, ignore_errors=True)
    if _older(target).exists():
        _older(target).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _older(target: Path) -> Path:
    return target.with_name(f".{target.name}.older")


def _has_content(folder: Path) -> bool:
    """Whether something is at `folder` that a rename would not replace."""
    return folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems cannot flush folders
            os.fsync(handle)
    finally:
        os.close(handle)
