"""One writer at a time: a lock next to what is written, released when its holder ends.

It is an `flock` of the operating system, so a killed process holds nothing; the file that it leaves
is taken over by the next writer. It works on local disks and on shared volumes whose file system
passes locks on to its server (NFS, CephFS). Where a file system has no locks, one warning says so
and nothing is locked.
"""

import errno
import fcntl
import json
import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from product1m.errors import LockedError, StorageError
from product1m.storage.disk import explain

logger = logging.getLogger(__name__)

_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_OPENINGS = 100
"""Tries to open a lock whose folder vanishes (ours)."""
_held: dict[Path, int] = {}
"""Locks that this process holds, each with the thread that took it."""


@contextmanager
def only_writer(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a file or folder within the block, `.NAME.lock` next to it; see `hold`.

    Missing parents are created.
    """
    with hold(lock_of(path), path, wait=wait):
        yield


def lock_of(path: Path) -> Path:
    """The lock file of a file or folder; it exists while somebody writes, or was killed then."""
    place = path.resolve()
    return place.with_name(f".{place.name}.lock")


@contextmanager
def hold(lock: Path, place: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `lock` within the block.

    If another run holds it: LockedError, about `place`, or with `wait` a pause until it ends.
    Blocks of one thread may nest.
    """
    if _held.get(lock) == threading.get_ident():
        yield
        return
    with _acquired(lock, place, wait) as file:
        _held[lock] = threading.get_ident()
        try:
            yield
        finally:
            if _held.get(lock) == threading.get_ident():
                del _held[lock]
            if _is_at(file, lock):  # while it is held, or another's would be removed
                lock.unlink(missing_ok=True)


def _is_at(file: TextIO, path: Path) -> bool:
    """Whether a path still leads to an open file, which may have been renamed since."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def _acquired(lock: Path, place: Path, wait: bool) -> Iterator[TextIO]:
    try:
        file = _open_locked(lock, wait)
    except BlockingIOError:
        raise LockedError(
            f"{place}: another run{_holder(lock)} is writing here; wait until it ends, or choose "
            "another folder"
        ) from None
    except OSError as error:
        raise _cannot_be_written(lock, place, error) from error
    with file:
        try:
            _write_holder(file)
        except OSError as error:
            lock.unlink(missing_ok=True)
            raise _cannot_be_written(lock, place, error) from error
        yield file


def _write_holder(file: TextIO) -> None:
    file.truncate(0)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": now}
    os.write(file.fileno(), json.dumps(holder).encode())  # a buffer would be written on closing too


def _cannot_be_written(lock: Path, place: Path, error: OSError) -> StorageError:
    # Creating the missing parents fails like this if one of them is a file.
    number = errno.ENOTDIR if isinstance(error, FileExistsError) else error.errno
    named = lock if number == errno.EISDIR else place
    explained = explain(OSError(number, error.strerror, str(named)))
    return explained or StorageError(f"{place}: cannot be written: {error.strerror}")


def _open_locked(lock: Path, wait: bool) -> TextIO:
    kind = fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB
    failed = 0
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = lock.open("a", encoding="utf-8")
        except FileNotFoundError:  # another run removed the empty folder
            failed += 1
            if failed == _OPENINGS:  # or no file can be made in it, as in /proc
                raise
            continue
        try:
            fcntl.flock(file, kind)
            if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                return file
        except FileNotFoundError:  # its holder removed it, and ended, after it was opened here
            pass
        except OSError as error:
            if error.errno in _WITHOUT_LOCKS:
                logger.warning("%s: the file system has no locks, so nothing is locked", lock)
                return file
            file.close()
            raise
        file.close()


def _holder(lock: Path) -> str:
    """Who holds a lock, in parentheses; empty if that cannot be read."""
    try:
        held = json.loads(lock.read_text("utf-8"))
        since = datetime.fromisoformat(held["since"]).astimezone()
        today = since.date() == datetime.now().astimezone().date()
        clock = since.strftime("%H:%M" if today else "%Y-%m-%d %H:%M")
        return f" (pid {held['pid']} on {held['host']}, since {clock})"
    except (OSError, ValueError, LookupError, TypeError):
        return ""
