"""Files and folders that appear whole or not at all.

They are written under a hidden name beside their place and renamed at the end. A process that is
killed leaves only the hidden name, and the next writer removes it.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from product1m.errors import StorageError
from product1m.storage.folder import hidden_beside


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to; it becomes `path` when the block ends without an error.

    An older file at `path` is replaced. One writer at a time: writers of one path share the name.
    """
    with hidden_beside(path) as partial:
        yield partial
        partial.replace(path)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `folder` when the block ends without an error.

    An older `folder` is removed then; missing parents are created. One writer at a time.
    """
    with hidden_beside(folder) as partial:
        partial.mkdir(parents=True)
        yield partial
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file that appears whole."""
    with whole_file(path) as partial:
        partial.write_text(text, "utf-8")


def require_unused(folder: Path) -> None:
    """Raise StorageError unless `folder` is missing or an empty folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StorageError(f"{folder}: not an empty folder; remove it or choose another one")
