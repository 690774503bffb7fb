"""What a store is: files below one address, in a local folder or under an `s3://` prefix.

Every failure that a user can fix is a StorageError that names the address.
"""

import hashlib
import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol, TypeVar

from product1m.errors import StorageError

S3 = "s3://"
BLOCK_BYTES = 1 << 20
"""Bytes that are read at once (ours)."""
READS = 8
"""Maximum number of reads of the same bytes that all differ; then the last read counts (ours)."""

FRESH_S = 86_400.0
"""A file older than this is written again when it is put again, so that its age shows when it was
last needed (ours)."""

T = TypeVar("T")


@dataclass(frozen=True)
class StoredFile:
    """A file of a store."""

    name: str
    """Relative to the store, separated by `/`."""
    num_bytes: int
    sha256: str = ""
    """Digest of the content; empty if the store does not keep one."""
    etag: str = ""
    """Changes with the content, in a listing of S3; the MD5 of an object put in one part."""
    written: float = field(default=0.0, compare=False)
    """When it was written last, in seconds since 1970."""

    @property
    def is_fresh(self) -> bool:
        """Whether it was written so recently that no clean-up removes it soon."""
        return time.time() - self.written < FRESH_S


class Store(Protocol):
    """Files below one address; safe to use from many threads."""

    uri: str
    """Absolute, without a slash at the end."""

    def address(self, name: str) -> str:
        """Address of a file, for messages and for `open_file`."""

    def local(self, name: str) -> Path | None:
        """Path of the file on this machine, whether it exists or not; None for a remote store."""

    def files(self, below: str = "") -> Iterator[StoredFile]:
        """The files whose name starts with `below`, in no particular order, without hidden ones."""

    def find(self, name: str) -> StoredFile | None:
        """Size and digest of a file without reading it; None if it does not exist."""

    def read(self, name: str, max_bytes: int | None = None) -> bytes:
        """A whole file.

        Raises NotStoredError if it does not exist, TooLargeError if it has more than `max_bytes`.
        """

    def read_range(self, name: str, start: int, num_bytes: int) -> bytes:
        """Bytes of a file from `start` on; fewer than `num_bytes` only at the end of the file."""

    def fetch(self, name: str, target: Path, sha256: str = "") -> None:
        """Copy a file to a local path; memory does not grow with its size.

        With its digest, what was damaged on the way is fetched again. The caller compares the
        digest: what differs afterwards is damaged in the store.
        """

    def put(self, path: Path, name: str, sha256: str) -> None:
        """Copy a local file into the store; it appears whole or not at all.

        Memory does not grow with its size. A file with the same size and digest that was written
        within a day is not copied.
        """

    def publish(self, name: str, content: bytes) -> bool:
        """Write a small file unless it exists already.

        True if the store now holds this content. If several writers publish different content, the
        first one gets True.
        """

    def replace(self, name: str, content: bytes) -> None:
        """Write a small file, replacing an older one; readers see the old content or the new."""

    def remove(self, name: str) -> None:
        """Remove a file; nothing happens if it does not exist."""


def is_remote(uri: str) -> bool:
    """Whether an address is not on this machine's file system."""
    return "://" in uri and not uri.startswith("file://")


def checked_name(name: str) -> str:
    """`name` without `./` and `//`; StorageError if it could lead out of the store."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise StorageError(f"{name!r:.80}: refused; expected the name of a file below a folder")
    return str(path)


def agreed(read: Callable[[], T], digest: Callable[[T], Hashable], expected: Hashable = None) -> T:
    """What `read` returns, as soon as its digest is the expected one or came twice.

    Bytes can change during a transfer. If two independent reads agree, the store holds these bytes.
    """
    seen: set[Hashable] = set()
    for _ in range(READS):
        value = read()
        if (actual := digest(value)) == expected or actual in seen:
            break
        seen.add(actual)
    return value


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, read block by block."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
