"""A folder that appears when it is whole."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from product1m.errors import DatasetError


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """Yield a hidden sibling that becomes `folder` at the end of the block; an error removes it.

    Raises DatasetError where `folder` already holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DatasetError(f"{folder}: not an empty folder; remove it or name another")
    partial = folder.absolute().with_name(f".{folder.absolute().name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if folder.exists():
            folder.rmdir()
        partial.rename(folder.absolute())
    finally:
        shutil.rmtree(partial, ignore_errors=True)
