"""Local folders and `s3://` prefixes behind one small interface.

Endpoint and credentials of S3 come from the standard AWS environment (`AWS_ENDPOINT_URL`,
`AWS_ACCESS_KEY_ID`, `AWS_PROFILE`, a service account, …). Every failure a user can mend comes out
as a StorageError that names the address.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol
from urllib.parse import urlsplit

from product1m.errors import NotStoredError, StorageError, TooLargeError

S3 = "s3://"
BLOCK_BYTES = 1 << 20
"""What is read or hashed at once (ours)."""


@dataclass(frozen=True)
class StoredFile:
    """A file of a store."""

    name: str
    """Relative to the store, with `/`."""
    num_bytes: int
    sha256: str = ""
    """Of the content, where the store was told."""


class Store(Protocol):
    """Files below one address; safe to use from many threads."""

    uri: str
    """Absolute, without a slash at the end."""

    def address(self, name: str) -> str:
        """Where a file lies, for people and for `open_file`."""

    def local(self, name: str) -> Path | None:
        """The file's path on this machine, there or not; None where it has to be fetched."""

    def files(self, below: str = "") -> Iterator[StoredFile]:
        """The files whose name starts with `below`, in no certain order; a name is not hidden."""

    def find(self, name: str) -> StoredFile | None:
        """What is known of a file without reading it; None if there is none."""

    def read(self, name: str, max_bytes: int | None = None) -> bytes:
        """A whole file.

        Raises NotStoredError if there is none, TooLargeError if it has more than `max_bytes`.
        """

    def read_range(self, name: str, start: int, num_bytes: int) -> bytes:
        """Bytes of a file from `start` on; fewer than `num_bytes` only where it ends."""

    def fetch(self, name: str, target: Path) -> None:
        """Copy a file to a local path, in memory that does not grow with it; unverified."""

    def put(self, path: Path, name: str, sha256: str) -> None:
        """Copy a local file in, in memory that does not grow with it; it appears whole or never.

        A file that is there already with the same size and digest is left alone.
        """

    def publish(self, name: str, content: bytes) -> bool:
        """Write a small file unless it exists; of writers that differ only the first gets True."""


def is_remote(uri: str) -> bool:
    """Whether an address has to be fetched."""
    return "://" in uri and not uri.startswith("file://")


def open_store(uri: str) -> Store:
    """The folder or prefix at an address; StorageError for an address of neither kind.

    Nothing is looked up: a folder that does not exist is an empty store.
    """
    if uri.startswith(S3):
        from product1m.storage.s3 import S3Prefix  # boto3 loads only where it is used

        return S3Prefix(uri)
    if is_remote(uri):
        raise StorageError(f"{uri}: expected a local folder or s3://BUCKET/PREFIX")
    return Folder(_local_path(uri))


def open_file(address: str) -> tuple[Store, str]:
    """The store around a single file, and the file's name in it."""
    if not is_remote(address):
        path = _local_path(address)
        return Folder(path.parent), path.name
    parent, _, name = address.rpartition("/")
    if not name or parent in ("s3:/", "s3:"):
        raise StorageError(f"{address}: expected s3://BUCKET/KEY, the address of one file")
    return open_store(parent), name


def _local_path(address: str) -> Path:
    return Path(urlsplit(address).path if address.startswith("file://") else address)


@contextmanager
def with_remote_fetched(name: str) -> Iterator[str]:
    """A model's name or folder as it is; an `s3://` prefix as a temporary folder of its files.

    Raises NotStoredError if there are none.
    """
    if not name.startswith(S3):
        yield name
        return
    store = open_store(name)
    with tempfile.TemporaryDirectory(prefix="product1m-") as scratch:
        files = list(store.files())
        if not files:
            raise NotStoredError(f"{name}: nothing lies below this address")
        for file in files:
            target = Path(scratch, checked_name(file.name))
            target.parent.mkdir(parents=True, exist_ok=True)
            store.fetch(file.name, target)
        yield scratch


@contextmanager
def local_file(address: str) -> Iterator[Path]:
    """A file on this machine, fetched to a temporary place where its address is remote."""
    store, name = open_file(address)
    path = store.local(name)
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="product1m-") as scratch:
        path = Path(scratch, name)
        store.fetch(name, path)
        yield path


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, read block by block."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checked_name(name: str) -> str:
    """A file's name in a store; StorageError if it could lead out of it."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise StorageError(f"{name!r:.80}: not the name of a file below a folder; refused")
    return name


class Folder:
    """A folder of this machine, or of a volume that several machines see."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uri = str(root.absolute())

    def address(self, name: str) -> str:
        """The file's path."""
        return str(self.root / name)

    def local(self, name: str) -> Path:
        """The file's path, whether there is one or not."""
        return self.root / checked_name(name)

    def files(self, below: str = "") -> Iterator[StoredFile]:
        """Every file whose name starts with `below`; hidden ones, half written, are left out."""
        folder, _, start = below.rpartition("/")
        yield from self._files(folder and f"{folder}/", start)

    def _files(self, folder: str, start: str = "") -> Iterator[StoredFile]:
        try:
            found = os.scandir(self.root / folder)
        except (FileNotFoundError, NotADirectoryError):
            return
        with found:
            for entry in found:
                if entry.name.startswith(".") or not entry.name.startswith(start):
                    continue
                if entry.is_dir():
                    yield from self._files(f"{folder}{entry.name}/")
                else:
                    yield StoredFile(folder + entry.name, entry.stat().st_size)

    def find(self, name: str) -> StoredFile | None:
        """Its size; a folder keeps no digests."""
        path = self.local(name)
        return StoredFile(name, path.stat().st_size) if path.is_file() else None

    def read(self, name: str, max_bytes: int | None = None) -> bytes:
        """The whole file; its size is looked at first."""
        path = self.local(name)
        with self._explained(name):
            num_bytes = path.stat().st_size
            if max_bytes is not None and num_bytes > max_bytes:
                raise TooLargeError(str(path), num_bytes, max_bytes)
            return path.read_bytes()

    def read_range(self, name: str, start: int, num_bytes: int) -> bytes:
        """A part of the file."""
        with self._explained(name), self.local(name).open("rb") as file:
            file.seek(start)
            return file.read(num_bytes)

    def fetch(self, name: str, target: Path) -> None:
        """Copy it."""
        with self._explained(name):
            shutil.copyfile(self.local(name), target)

    def put(self, path: Path, name: str, sha256: str) -> None:
        """Copy it in beside its place, then rename it; files here are known by name and size."""
        target = self.local(name)
        if target.is_file() and target.stat().st_size == path.stat().st_size:
            return
        with self._explained(name):
            target.parent.mkdir(parents=True, exist_ok=True)
            with _beside(target) as partial:
                shutil.copyfile(path, partial)
                if (found := sha256_of(partial)) != sha256:
                    raise StorageError(f"{target}: copied sha256 {sha256}, got {found}; try again")
                partial.replace(target)

    def publish(self, name: str, content: bytes) -> bool:
        """A hard link is refused where the name is taken, and what it links to is whole."""
        target = self.local(name)
        with self._explained(name):
            target.parent.mkdir(parents=True, exist_ok=True)
            with _beside(target) as partial:
                partial.write_bytes(content)
                try:
                    target.hardlink_to(partial)
                except FileExistsError:
                    return target.read_bytes() == content
        return True

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise NotStoredError(f"{self.address(name)}: no such file") from error
        except OSError as error:
            raise StorageError(f"{self.address(name)}: {error.strerror}") from error


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A hidden name of this writer's own; what is left there is removed."""
    handle, name = tempfile.mkstemp(prefix=".", suffix=".partial", dir=target.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)
