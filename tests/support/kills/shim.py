"""Counts the file operations of this process below a folder, and kills it at one of them.

Operations are what Python reports to its audit hooks (open for writing, rename, remove, mkdir,
rmdir, link, symlink, truncate), `os.fsync`, the commits of SQLAlchemy to a database file, and
requests to S3. Native libraries open and write files unseen; a kill in the middle of a write
therefore comes from the kernel: from the chosen operation on, no file may grow beyond `MAX_BYTES`,
and the first write that tries kills the process.
"""

import hashlib
import os
import resource
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from botocore.httpsession import URLLib3Session
from sqlalchemy import event
from sqlalchemy.engine import Engine

MAX_BYTES = 16
BEFORE, WRITE = "before", "write"
"""How to kill: before operation `at`, or in the first write after it."""
_FIRST_ARGUMENT = ("os.mkdir", "os.remove", "os.rmdir", "os.truncate")
_TWO_PATHS = ("os.rename", "os.link", "os.symlink")
_READING = ("GET", "HEAD")


class Shim:
    """Counts operations; kills the process at number `at`, or at the first that starts so.

    With `watched`, the states of the folder at every operation are kept too.
    """

    def __init__(
        self, root: Path, at: int | str = 0, how: str = BEFORE, *, watched: bool = False
    ) -> None:
        self.count = 0
        self.names: list[str] = []
        self.states: list[str] = []
        """Digest of everything below the folder at each operation, and at the end."""
        self.written: list[bool] = []
        """Whether any file has new content since the operation before."""
        self._root, self._at, self._how = f"{root}/", at, how
        self._lock = threading.Lock()
        self._watched, self._contents, self._remote_writes = watched, {b""}, 0
        self._read: dict[tuple[int, int, int], bytes] = {}

    def install(self) -> None:
        """Count from now on; it cannot be undone."""
        sys.addaudithook(self._audit)

        def fsync(fd: Any) -> None:
            number = fd if isinstance(fd, int) else fd.fileno()
            self._note("fsync", _path_of(number))

        os.fsync = fsync  # nobody cuts the power, so nothing need reach the disk
        event.listen(Engine, "commit", self._commit)
        send = URLLib3Session.send

        def note_and_send(session: Any, request: Any) -> Any:
            self._note(f"s3 {request.method}", self._root + request.url.partition("?")[0])
            self._remote_writes += request.method not in _READING
            return send(session, request)

        setattr(URLLib3Session, "send", note_and_send)  # noqa: B010  mypy allows no assignment

    def stop(self) -> None:
        """Count no more."""
        self._watch()
        self._root, self._watched = "/nowhere", False

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
            self._watch()
            if self.count != self._at and not self._is_meant():
                return
        if self._how == BEFORE:
            os.kill(os.getpid(), signal.SIGKILL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_BYTES, MAX_BYTES))

    def _watch(self) -> None:
        if not self._watched:
            return
        state, contents = hashlib.sha256(str(self._remote_writes).encode()), {b""}
        for path in sorted(Path(self._root).rglob("*")):
            try:
                digest = self._digest(path) if path.is_file() else b""
            except FileNotFoundError:  # another thread removed it
                continue
            contents.add(digest)
            state.update(f"{path} {path.is_dir()} ".encode() + digest)
        self.states.append(state.hexdigest())
        self.written.append(bool(contents - self._contents))
        self._contents = contents

    def _digest(self, path: Path) -> bytes:
        """Of a file's content; one with the same time of change is not read again.

        A database is, because its pages are written in place, many within a tick of the clock.
        """
        about = path.stat()
        known = (about.st_ino, about.st_size, about.st_mtime_ns)
        if ".db" in path.name or known not in self._read:
            content = path.read_bytes()
            self._read[known] = hashlib.sha256(content).digest() if content else b""
        return self._read[known]


def _absolute(path: Any, folder: Any) -> str:
    """The path; one that is relative to an open folder with that folder."""
    name = os.fsdecode(path)
    if name.startswith("/") or not isinstance(folder, int) or folder < 0:
        return name
    return f"{_path_of(folder)}/{name}"


def _path_of(number: int) -> str:
    return str(Path(f"/proc/self/fd/{number}").readlink())
