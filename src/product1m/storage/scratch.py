"""Temporary folders that do not outlive a killed process for long.

A model is gigabytes, and a process that is killed cannot remove what it fetched. Each folder is
locked by the process that made it, so the next process sees which folders are abandoned, and
removes them.
"""

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from product1m.errors import StorageError
from product1m.storage.disk import disk_errors_explained
from product1m.storage.locks import hold

_LOCK = ".lock"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield an empty folder that is removed at the end of the block, or by the next process.

    It is below `$TMPDIR`, in a folder that only this user may read. StorageError if that folder is
    another user's.
    """
    root = _root()
    with disk_errors_explained(root), hold(root / _LOCK, root, wait=True), ExitStack() as stack:
        _remove_abandoned(root)
        folder = Path(tempfile.mkdtemp(dir=root))
        with suppress(OSError):  # without locks nobody removes the folders of others
            stack.callback(os.close, _locked(folder))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        locked = stack.pop_all()
    with locked:
        yield folder


@contextmanager
def temporary_files_in(folder: Path) -> Iterator[None]:
    """Make other libraries put their temporary files into `folder` within the block.

    It applies to the whole process, so only the main thread of a command may use it.
    """
    before = tempfile.tempdir
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def _root() -> Path:
    """The parent of this user's scratch folders."""
    root = Path(tempfile.gettempdir(), f"product1m-scratch-{os.geteuid()}")
    with disk_errors_explained(root.parent):
        root.mkdir(mode=0o700, exist_ok=True)
        facts = root.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o022:
        raise StorageError(
            f"{root}: expected a folder of user {os.geteuid()} that nobody else may write to; "
            "remove it, or set TMPDIR to a folder of your own"
        )
    return root


def _remove_abandoned(root: Path) -> None:
    for path in root.iterdir():
        try:
            handle = _locked(path)
        except OSError:  # in use, not a folder, or a file system without locks
            continue
        shutil.rmtree(path, ignore_errors=True)
        os.close(handle)


def _locked(folder: Path) -> int:
    """A handle that holds the folder's lock as long as it is open, or its process runs."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle
