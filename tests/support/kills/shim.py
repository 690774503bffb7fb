"""Counts the file operations of this process below a folder, and kills it at one of them.

Operations are what Python reports to its audit hooks (open for writing, rename, remove, mkdir,
rmdir, link, symlink, truncate), `os.fsync`, and the commits of SQLAlchemy to a database file.
Native libraries open and write files unseen; a kill in the middle of a write therefore comes from
the kernel: from the chosen operation on, no file may grow beyond `MAX_BYTES`, and the first write
that tries kills the process.
"""

import os
import resource
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

MAX_BYTES = 16
BEFORE, WRITE = "before", "write"
"""How to kill: before operation `at`, or in the first write after it."""
_FIRST_ARGUMENT = ("os.mkdir", "os.remove", "os.rmdir", "os.truncate")
_TWO_PATHS = ("os.rename", "os.link", "os.symlink")


class Shim:
    """Counts operations; kills the process at number `at`, or at the first that starts so."""

    def __init__(self, root: Path, at: int | str = 0, how: str = BEFORE) -> None:
        self.count = 0
        self.names: list[str] = []
        self._root, self._at, self._how = f"{root}/", at, how
        self._lock = threading.Lock()

    def install(self) -> None:
        """Count from now on; it cannot be undone."""
        sys.addaudithook(self._audit)

        def fsync(fd: Any) -> None:
            number = fd if isinstance(fd, int) else fd.fileno()
            self._note("fsync", _path_of(number))

        os.fsync = fsync  # nobody cuts the power, so nothing need reach the disk
        event.listen(Engine, "commit", self._commit)

    def stop(self) -> None:
        """Count no more."""
        self._root = "/nowhere"

    def _is_meant(self) -> bool:
        return isinstance(self._at, str) and self.names[-1].startswith(self._at)

    def _commit(self, connection: Any) -> None:
        self._note("commit", str(connection.engine.url.database))

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            if writes and not isinstance(path, int):
                self._note(event, os.fsdecode(path))
        elif event in _FIRST_ARGUMENT:
            self._note(event, _absolute(arguments[0], arguments[-1]))
        elif event in _TWO_PATHS:
            self._note(event, _absolute(arguments[1], -1))

    def _note(self, name: str, path: str) -> None:
        if not path.startswith(self._root):
            return
        with self._lock:
            self.count += 1
            self.names.append(f"{name} {path.removeprefix(self._root)}")
            if self.count != self._at and not self._is_meant():
                return
        if self._how == BEFORE:
            os.kill(os.getpid(), signal.SIGKILL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_BYTES, MAX_BYTES))


def _absolute(path: Any, folder: Any) -> str:
    """The path; one that is relative to an open folder with that folder."""
    name = os.fsdecode(path)
    if name.startswith("/") or not isinstance(folder, int) or folder < 0:
        return name
    return f"{_path_of(folder)}/{name}"


def _path_of(number: int) -> str:
    return str(Path(f"/proc/self/fd/{number}").readlink())
