"""A folder as a store, and files written under a hidden name first."""

import contextlib
import errno
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from product1m.errors import LockedError, NotStoredError, StorageError, TooLargeError
from product1m.storage.base import StoredFile, checked_name, sha256_of
from product1m.storage.disk import disk_errors_explained, explain
from product1m.storage.locks import only_writer

_UNFINISHED = re.compile(r"\.(?P<name>.+)\.(partial|lock)")
LOST_AND_FOUND = "lost+found"
"""Folder at the root of an ext file system; never part of a data set."""


@contextmanager
def hidden_beside(target: Path) -> Iterator[Path]:
    """Yield a hidden path in the folder of `target` to write a file or folder to.

    The path does not exist when the block starts; if it still exists when the block ends, it is
    removed. One writer at a time. DiskError if the disk is full or the file system refuses
    something else in the block.
    """
    partial = _partial(target)
    try:
        with disk_errors_explained(partial.parent):
            _remove(partial)
            yield partial
    finally:
        _remove(partial)


@contextmanager
def _shared_partial(target: Path) -> Iterator[Path]:
    """Like `hidden_beside`, for a file that several processes may write at once: they take turns.

    The lock is a separate file, because a killed process may have left a link to the finished file
    at the hidden path, and the finished file must not be written.
    """
    with only_writer(target, wait=True), hidden_beside(target) as partial:
        yield partial


def _partial(target: Path) -> Path:
    return target.absolute().with_name(f".{target.absolute().name}.partial")


def remove_unfinished(folder: Path) -> None:
    """Remove the files that killed writers left in a folder; what is being written stays."""
    try:
        names = {match["name"] for entry in os.scandir(folder) if (match := _left(entry))}
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        target = folder / name
        with contextlib.suppress(LockedError), only_writer(target):
            _partial(target).unlink(missing_ok=True)


def remove_unfinished_below(root: Path) -> None:
    """The same for a folder and all folders in it."""
    for folder, _, _ in os.walk(root):
        remove_unfinished(Path(folder))


def link_or_copy(source: Path, target: Path) -> bool:
    """Give a file a second name, in a folder that is created if missing; True if that worked.

    On another file system, or one without links, the file is copied. Raises StorageError if
    `source` is missing, DiskError for a full disk.
    """
    with disk_errors_explained(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except FileNotFoundError:
            raise StorageError(f"{source}: no such file") from None
        except OSError:
            shutil.copyfile(source, target)
            return False
    return True


def _left(entry: "os.DirEntry[str]") -> "re.Match[str] | None":
    return None if entry.is_dir() else _UNFINISHED.fullmatch(entry.name)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    elif path.exists() or path.is_symlink():
        path.unlink(missing_ok=True)


def _require_bytes(state: os.stat_result, path: str) -> None:
    """OSError for a pipe, socket or device: reading one may never end."""
    if not (stat.S_ISREG(state.st_mode) or stat.S_ISDIR(state.st_mode)):
        raise OSError(errno.EINVAL, "a pipe, socket or device, not a file; remove it", path)


def _require_utf8(path: str) -> None:
    """OSError for a name that nothing could print, and no object store could hold."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise OSError(errno.EILSEQ, "the name is not UTF-8; rename it", path) from None


def _state_of(path: str) -> os.stat_result:
    state = os.stat(path)  # noqa: PTH116 a Path each takes seconds for a million
    _require_bytes(state, path)
    _require_utf8(path)
    return state


class Folder:
    """A folder on this machine, or on a volume that several machines mount."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uri = str(root.absolute())

    def address(self, name: str) -> str:
        """The file's path."""
        return str(self.root / name)

    def local(self, name: str) -> Path:
        """The file's path, whether it exists or not."""
        return self.root / checked_name(name)

    def files(self, below: str = "") -> Iterator[StoredFile]:
        """Every file whose name starts with `below`, without hidden (unfinished) ones.

        Links are followed. Raises StorageError for a link that leads nowhere or back to a folder
        that contains it, for a folder that may not be read, and for a pipe, socket or device.
        """
        for name, state in self.states(below):
            yield StoredFile(name, state.st_size, written=state.st_mtime)

    def states(self, below: str = "") -> Iterator[tuple[str, os.stat_result]]:
        """Name and state of the same files."""
        folder, _, start = below.rpartition("/")
        yield from self._states(folder and f"{folder}/", start, [])

    def _states(
        self, folder: str, start: str, inside: list[str]
    ) -> Iterator[tuple[str, os.stat_result]]:
        """`inside` are the real paths of the folders above."""
        with self._explained(folder):
            real = os.path.realpath(self.root / folder)
            if real in inside:
                raise StorageError(
                    f"{self.root / folder}: a link that leads back to {real}, which contains it; "
                    "remove the link"
                )
            try:
                entries = sorted(os.listdir(self.root / folder))  # noqa: PTH208 names alone
            except (FileNotFoundError, NotADirectoryError):
                return
        above = f"{self.root}/{folder}"
        for entry in entries:
            if entry.startswith((".", LOST_AND_FOUND)) or not entry.startswith(start):
                continue
            try:
                state = _state_of(above + entry)
            except OSError as error:
                raise self._reason(folder + entry, error) from error
            if stat.S_ISDIR(state.st_mode):
                yield from self._states(f"{folder}{entry}/", "", [*inside, real])
            else:
                yield folder + entry, state

    def find(self, name: str) -> StoredFile | None:
        """The file's size; a folder keeps no digests."""
        path = self.local(name)
        if not path.is_file():
            return None
        facts = path.stat()
        return StoredFile(name, facts.st_size, written=facts.st_mtime)

    def read(self, name: str, max_bytes: int | None = None) -> bytes:
        """The whole file; its size is checked first."""
        path = self.local(name)
        with self._explained(name):
            state = path.stat()
            _require_bytes(state, str(path))
            num_bytes = state.st_size
            if max_bytes is not None and num_bytes > max_bytes:
                raise TooLargeError(str(path), num_bytes, max_bytes)
            return path.read_bytes()

    def read_range(self, name: str, start: int, num_bytes: int) -> bytes:
        """A part of the file."""
        with self._explained(name), self.local(name).open("rb") as file:
            file.seek(start)
            return file.read(num_bytes)

    def fetch(self, name: str, target: Path, sha256: str = "") -> None:
        """Copy the file; twice if the digest is not the given one."""
        with self._explained(name):
            shutil.copyfile(self.local(name), target)
            if sha256 and sha256_of(target) != sha256:
                shutil.copyfile(self.local(name), target)

    def put(self, path: Path, name: str, sha256: str) -> None:
        """Copy the file under a hidden name, verify it, rename it.

        A file with the same name and size is taken for the same file; its time becomes now.
        """
        target = self.local(name)
        stored = self.find(name)
        if stored and stored.num_bytes == path.stat().st_size:
            if not stored.is_fresh:
                with suppress(OSError):  # another account's file
                    os.utime(target)
            return
        with self._explained(name):
            target.parent.mkdir(parents=True, exist_ok=True)
            with _shared_partial(target) as partial:
                shutil.copyfile(path, partial)
                if (copied := sha256_of(partial)) != sha256:
                    raise StorageError(
                        f"{target}: damaged while copying: expected sha256 {sha256}, got {copied}; "
                        "try again"
                    )
                partial.replace(target)

    def publish(self, name: str, content: bytes) -> bool:
        """Write a hidden file and link it; the system refuses a link to a name that exists."""
        target = self.local(name)
        with self._explained(name):
            target.parent.mkdir(parents=True, exist_ok=True)
            with _shared_partial(target) as partial:
                partial.write_bytes(content)
                try:
                    target.hardlink_to(partial)
                except FileExistsError:
                    return target.read_bytes() == content
        return True

    def replace(self, name: str, content: bytes) -> None:
        """Write a hidden file and rename it."""
        target = self.local(name)
        with self._explained(name), _shared_partial(target) as partial:
            partial.write_bytes(content)
            partial.replace(target)

    def remove(self, name: str) -> None:
        """Unlink the file."""
        with self._explained(name):
            self.local(name).unlink(missing_ok=True)

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._reason(name, error) from error

    def _reason(self, name: str, error: OSError) -> StorageError:
        path = self.root / name
        if isinstance(error, FileNotFoundError) and path.is_symlink():
            return NotStoredError(
                f"{path}: a link to {path.readlink()}, which does not exist; remove the link or "
                "restore the file"
            )
        if isinstance(error, FileNotFoundError):
            return NotStoredError(f"{path}: no such file")
        shown = os.fsencode(self.address(name)).decode(errors="backslashreplace")
        return StorageError(str(explain(error, [self.root]) or f"{shown}: {error.strerror}"))
