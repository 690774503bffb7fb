"""Opens local folders and `s3://` prefixes by their address.

Endpoint and credentials of S3 come from the standard AWS environment (`AWS_ENDPOINT_URL`,
`AWS_ACCESS_KEY_ID`, `AWS_PROFILE`, a service account, …).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

from product1m.errors import NotStoredError, StorageError
from product1m.storage.base import S3, Store, checked_name, is_remote
from product1m.storage.folder import Folder
from product1m.storage.scratch import scratch_folder


def open_store(uri: str) -> Store:
    """The folder or prefix at an address; StorageError for any other kind of address.

    Nothing is read: a folder that does not exist is an empty store.
    """
    if uri.startswith(S3):
        from product1m.storage.s3 import S3Prefix  # loads boto3, which takes a second

        return S3Prefix(uri)
    if is_remote(uri):
        raise StorageError(f"{uri}: expected a local folder or s3://BUCKET/PREFIX")
    return Folder(_local_path(uri))


def abort_unfinished_uploads(address: str, older_than_hours: float) -> list[str]:
    """Abort multipart uploads below an `s3://` address that began earlier; their addresses.

    Raises StorageError for a folder, which has none.
    """
    if not address.startswith(S3):
        raise StorageError(f"{address}: expected s3://BUCKET or s3://BUCKET/PREFIX")
    from product1m.storage.s3 import S3Prefix

    return S3Prefix(address).abort_unfinished(timedelta(hours=older_than_hours))


def open_file(address: str) -> tuple[Store, str]:
    """The store that holds a single file, and the file's name in it."""
    if not is_remote(address):
        path = _local_path(address)
        return Folder(path.parent), path.name
    parent, _, name = address.rpartition("/")
    if not name or parent in ("s3:/", "s3:"):
        raise StorageError(f"{address}: expected s3://BUCKET/KEY, the address of one file")
    return open_store(parent), name


def read_file(path: Path, max_bytes: int) -> bytes:
    """A local file; StorageError for a folder, a pipe, a device or more than `max_bytes`."""
    return Folder(path.absolute().parent).read(path.name, max_bytes)


def _local_path(address: str) -> Path:
    path = unquote(urlsplit(address).path) if address.startswith("file://") else address
    return Path(path).expanduser()


@contextmanager
def with_remote_fetched(name: str) -> Iterator[str]:
    """Yield a model's name or folder unchanged; fetch an `s3://` prefix to a temporary folder.

    Raises NotStoredError if there are no files below the prefix.
    """
    if not name.startswith(S3):
        yield str(Path(name).expanduser()) if name.startswith("~") else name
        return
    store = open_store(name)
    with scratch_folder() as scratch:
        files = list(store.files())
        if not files:
            raise NotStoredError(f"{name}: no files below this address")
        for file in files:
            target = Path(scratch, checked_name(file.name))
            target.parent.mkdir(parents=True, exist_ok=True)
            store.fetch(file.name, target)
        yield str(scratch)


@contextmanager
def local_file(address: str) -> Iterator[Path]:
    """Yield the path of a file; a remote one is fetched to a temporary folder first."""
    store, name = open_file(address)
    path = store.local(name)
    if path is not None:
        yield path
        return
    with scratch_folder() as scratch:
        path = Path(scratch, name)
        store.fetch(name, path)
        yield path
