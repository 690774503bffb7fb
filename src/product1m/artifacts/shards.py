"""Bulk files: named by their content in storage, read from a local copy or part by part.

A step's shards go to `STORAGE/objects/` under their SHA-256 as soon as they are finished. A reader
copies a set of shards that fits into its scratch folder. From a larger set it reads only the parts
it needs, so neither memory nor disk use grows with the set.
"""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from product1m.artifacts.atomic import whole_file
from product1m.errors import ArtifactError, ConfigError, NotStoredError, StorageError
from product1m.storage.base import Store, StoredFile, agreed, sha256_of
from product1m.storage.opening import open_store

OBJECTS = "objects"
"""Folder of the files that are named by their content, below the storage root."""
SCRATCH_MIB = 8192
"""Size of the scratch folder, unless `PRODUCT1M_SCRATCH_MIB` is set (ours)."""


@dataclass(frozen=True)
class ShardId:
    """A bulk file of an artifact, identified by its content."""

    name: str
    """Name in the artifact."""
    sha256: str
    num_bytes: int

    @property
    def place(self) -> str:
        """Name in the store."""
        suffix = PurePosixPath(self.name).suffix
        return f"{OBJECTS}/{self.sha256[:2]}/{self.sha256}{suffix}"


@dataclass(frozen=True)
class Shard:
    """A bulk file to read parts of; can be passed to another process."""

    storage: str
    """Address of the store."""
    name: str
    """Name in the store."""
    path: Path | None
    """A whole, verified copy on this machine; None if parts are read from the store."""

    @property
    def address(self) -> str:
        """Address for messages."""
        return str(self.path or open_store(self.storage).address(self.name))

    def read(self, start: int, num_bytes: int) -> bytes:
        """Bytes from `start` on; the caller verifies those that come from the store.

        Bytes damaged on the way are read again, see `storage.base.agreed`.
        """
        if self.path is not None:
            try:
                with self.path.open("rb") as file:
                    file.seek(start)
                    return file.read(num_bytes)
            except FileNotFoundError:  # another process needed the space
                if not self.storage:
                    raise
        return open_store(self.storage).read_range(self.name, start, num_bytes)


class ShardUploads:
    """Moves finished shards to a store while the next one is written; at most one waits.

    Without a store the files stay where they are.
    """

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self._pool = ThreadPoolExecutor(1, "upload")
        self._pending: list[Future[ShardId]] = []
        self._moved: list[ShardId] = []

    def move(self, path: Path, name: str) -> None:
        """Hash, store and remove the file; raises the StorageError of an earlier file."""
        if self._store is not None:
            while len(self._pending) > 1:
                self._moved.append(self._pending.pop(0).result())
            self._pending.append(self._pool.submit(_move, self._store, path, name))

    def finish(self) -> list[ShardId]:
        """All moved files, after all are stored."""
        while self._pending:
            self._moved.append(self._pending.pop(0).result())
        return self._moved

    def close(self) -> None:
        """Cancel uploads that have not started."""
        self._pool.shutdown(cancel_futures=True)


def check_stored(store: Store, shard: ShardId, step: str) -> None:
    """Check size and digest of a shard in a store; ArtifactError if they differ.

    A store that keeps digests is asked for them; in a folder the file is read.
    """
    path = store.local(shard.place)

    def look() -> tuple[int, str]:
        stored = require_stored(store, shard, step)
        return stored.num_bytes, stored.sha256 if path is None else sha256_of(path)

    expected = (shard.num_bytes, shard.sha256)
    stored_copy = agreed(look, lambda facts: facts, expected)
    if stored_copy != expected:
        sha256 = stored_copy[1]
        raise _damaged(store, shard, sha256, step)


def require_stored(store: Store, shard: ShardId, step: str) -> StoredFile:
    """What the store knows of a shard; ArtifactError if it is missing."""
    stored = store.find(shard.place)
    if stored is None:
        raise ArtifactError(
            f"{store.address(shard.place)}: missing; it is {shard.name}, run {step} again"
        )
    return stored


def scratch_copy(store: Store, shard: ShardId, step: str) -> Path:
    """Path of a local copy of a shard, which is fetched and verified if it does not exist.

    Processes share the scratch folder; the least recently used copies are removed to make space.
    Raises ArtifactError if the shard is missing or damaged; its message names `step`, which wrote
    it.
    """
    folder = _scratch()
    path = folder / PurePosixPath(shard.place).name
    with _only_fetcher(folder / f".{shard.sha256}.lock"):
        if path.is_file():
            os.utime(path)
            return path
        _make_room(folder, shard.num_bytes)
        with whole_file(path) as partial:
            fetch_verified(store, shard, partial, step)
        return path


def fetch_verified(store: Store, shard: ShardId, target: Path, step: str) -> None:
    """Fetch a file and compare its digest; ArtifactError if two independent reads are damaged."""
    _fetch(store, shard, target, step)
    sha256 = sha256_of(target)
    if sha256 != shard.sha256:
        target.unlink()
        raise _damaged(store, shard, sha256, step)


def fits_scratch(num_bytes: int) -> bool:
    """Whether a set of shards fits into scratch; a step reads two sets at the same time."""
    return num_bytes <= _scratch_bytes() // 2


def _move(store: Store, path: Path, name: str) -> ShardId:
    shard = ShardId(name, sha256_of(path), path.stat().st_size)
    store.put(path, shard.place, shard.sha256)
    path.unlink()
    return shard


def _fetch(store: Store, shard: ShardId, target: Path, step: str) -> None:
    try:
        store.fetch(shard.place, target, shard.sha256)
    except NotStoredError as error:
        raise ArtifactError(f"{error}; it is {shard.name}, run {step} again") from error
    except OSError as error:
        raise StorageError(
            f"{target.parent}: no copy of {shard.name} could be written ({error.strerror}); set "
            f"PRODUCT1M_SCRATCH to a folder with {shard.num_bytes >> 20} MiB of free space"
        ) from error


def _damaged(store: Store, shard: ShardId, sha256: str, step: str) -> ArtifactError:
    return ArtifactError(
        f"{store.address(shard.place)}: damaged: it is {shard.name}, expected sha256 "
        f"{shard.sha256}, got {sha256 or 'none'}; delete it there and run {step} again"
    )


def _scratch() -> Path:
    named = os.environ.get("PRODUCT1M_SCRATCH")
    folder = Path(named or Path(tempfile.gettempdir(), f"product1m-{os.getuid()}"))
    folder = folder.expanduser()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _scratch_bytes() -> int:
    stated = os.environ.get("PRODUCT1M_SCRATCH_MIB", str(SCRATCH_MIB))
    if not stated.isdecimal():
        raise ConfigError(f"PRODUCT1M_SCRATCH_MIB={stated!r}: expected a number of MiB, as in 8192")
    return int(stated) << 20


def _make_room(folder: Path, num_bytes: int) -> None:
    """Remove the least recently used copies; a process that has a copy open can still read it."""
    copies = [path for path in folder.iterdir() if not path.name.startswith(".")]
    facts = sorted((stat.st_mtime_ns, stat.st_size, path) for stat, path in _stats(copies))
    surplus = sum(size for _, size, _ in facts) + num_bytes - _scratch_bytes()
    for _, size, path in facts:
        if surplus <= 0:
            return
        path.unlink(missing_ok=True)
        surplus -= size


def _stats(paths: list[Path]) -> Iterator[tuple[os.stat_result, Path]]:
    for path in paths:
        try:
            yield path.stat(), path
        except FileNotFoundError:  # another process removed it
            continue


@contextmanager
def _only_fetcher(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
