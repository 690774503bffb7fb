"""Bulk files: named by their content in storage, read whole from scratch or part by part.

A step's shards go to `STORAGE/objects/` under their SHA-256 as soon as they are finished. A reader
copies a set that fits into its scratch folder shard by shard; of a larger one it reads only the
parts it needs, so neither memory nor disk grow with the set.
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
from product1m.storage.base import Store, sha256_of
from product1m.storage.opening import open_store

OBJECTS = "objects"
"""Below the storage root, files named by their content."""
SCRATCH_MIB = 8192
"""Size of the scratch folder unless `PRODUCT1M_SCRATCH_MIB` says otherwise (ours)."""
_FETCHES = 2
"""A shard that arrives damaged is fetched once more: it may have been on its way (ours)."""


@dataclass(frozen=True)
class ShardId:
    """A bulk file of an artifact, known by its content."""

    name: str
    """In the artifact."""
    sha256: str
    num_bytes: int

    @property
    def place(self) -> str:
        """Its name in storage."""
        suffix = PurePosixPath(self.name).suffix
        return f"{OBJECTS}/{self.sha256[:2]}/{self.sha256}{suffix}"


@dataclass(frozen=True)
class Shard:
    """A bulk file to read parts of; can be sent to another process."""

    storage: str
    """Address of the store."""
    name: str
    """In the store."""
    path: Path | None
    """Its whole, verified copy on this machine; None where parts are read from the store."""

    @property
    def address(self) -> str:
        """Where it lies, for people."""
        return str(self.path or open_store(self.storage).address(self.name))

    def read(self, start: int, num_bytes: int) -> bytes:
        """Bytes from `start` on; those read from the store are for the caller to verify."""
        if self.path is not None:
            try:
                with self.path.open("rb") as file:
                    file.seek(start)
                    return file.read(num_bytes)
            except FileNotFoundError:  # another process needed the room
                if not self.storage:
                    raise
        return open_store(self.storage).read_range(self.name, start, num_bytes)


class ShardUploads:
    """Moves finished shards to a store while the next one is written; one waits at most.

    Without a store they stay where they are.
    """

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self._pool = ThreadPoolExecutor(1, "upload")
        self._pending: list[Future[ShardId]] = []
        self._moved: list[ShardId] = []

    def move(self, path: Path, name: str) -> None:
        """Hash the file, store it and remove it; StorageError of an earlier one comes out here."""
        if self._store is not None:
            while len(self._pending) > 1:
                self._moved.append(self._pending.pop(0).result())
            self._pending.append(self._pool.submit(_move, self._store, path, name))

    def finish(self) -> list[ShardId]:
        """Every moved file, once all are stored."""
        while self._pending:
            self._moved.append(self._pending.pop(0).result())
        return self._moved

    def close(self) -> None:
        """Give up what has not begun."""
        self._pool.shutdown(cancel_futures=True)


def check_stored(store: Store, shard: ShardId, step: str) -> None:
    """Ask the store for a shard's size and digest without reading it; ArtifactError if they differ.

    A folder keeps no digests, so there the file is read.
    """
    found = store.find(shard.place)
    if found is None:
        raise ArtifactError(
            f"{store.address(shard.place)}: missing; it is {shard.name}, run {step} again"
        )
    path = store.local(shard.place)
    sha256 = found.sha256 if path is None else sha256_of(path)
    if (found.num_bytes, sha256) != (shard.num_bytes, shard.sha256):
        raise _damaged(store, shard, sha256, step)


def scratch_copy(store: Store, shard: ShardId, step: str) -> Path:
    """The whole shard on this machine, fetched and verified unless it is there.

    Processes share the scratch folder; what was used longest ago makes room. ArtifactError if the
    shard is missing or damaged; `step` is who can write it again.
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
    """Fetch a file and compare its digest, twice at most; ArtifactError if both are wrong."""
    for _ in range(_FETCHES):
        _fetch(store, shard, target, step)
        found = sha256_of(target)
        if found == shard.sha256:
            return
    target.unlink()
    raise _damaged(store, shard, found, step)


def fits_scratch(num_bytes: int) -> bool:
    """Whether a set can lie in scratch as a whole; a step reads two at once."""
    return num_bytes <= _scratch_bytes() // 2


def _move(store: Store, path: Path, name: str) -> ShardId:
    shard = ShardId(name, sha256_of(path), path.stat().st_size)
    store.put(path, shard.place, shard.sha256)
    path.unlink()
    return shard


def _fetch(store: Store, shard: ShardId, target: Path, step: str) -> None:
    try:
        store.fetch(shard.place, target)
    except NotStoredError as error:
        raise ArtifactError(f"{error}; it is {shard.name}, run {step} again") from error
    except OSError as error:
        raise StorageError(
            f"{target.parent}: cannot hold a copy of {shard.name} ({error.strerror}); name a "
            f"folder with {shard.num_bytes >> 20} MiB free in PRODUCT1M_SCRATCH"
        ) from error


def _damaged(store: Store, shard: ShardId, found: str, step: str) -> ArtifactError:
    return ArtifactError(
        f"{store.address(shard.place)}: damaged: it is {shard.name}, expected sha256 "
        f"{shard.sha256}, got {found or 'none'}; delete it there and run {step} again"
    )


def _scratch() -> Path:
    named = os.environ.get("PRODUCT1M_SCRATCH")
    folder = Path(named or Path(tempfile.gettempdir(), f"product1m-{os.getuid()}"))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _scratch_bytes() -> int:
    stated = os.environ.get("PRODUCT1M_SCRATCH_MIB", str(SCRATCH_MIB))
    if not stated.isdecimal():
        raise ConfigError(f"PRODUCT1M_SCRATCH_MIB={stated!r}: expected a number of MiB, as in 8192")
    return int(stated) << 20


def _make_room(folder: Path, num_bytes: int) -> None:
    """Remove the copies used longest ago; who has one open or mapped keeps it."""
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
        except FileNotFoundError:  # another process made room
            continue


@contextmanager
def _only_fetcher(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
