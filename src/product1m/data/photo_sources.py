"""The bytes of an item's photo: from the data set, from storage or from a URL."""

import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Protocol

from product1m.config import IngestionConfig
from product1m.data.allowed_sources import AllowedSources
from product1m.data.downloads import Downloads
from product1m.data.lists import DATASET_FILES, PHOTO_FOLDER, ListItem
from product1m.errors import DatasetError, NotStoredError, PhotoError, StorageError, TooLargeError
from product1m.storage.base import Store, is_remote
from product1m.storage.folder import Folder
from product1m.storage.opening import open_file, open_store
from product1m.storage.scratch import scratch_folder

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
"""Extensions of photos that are named by id, tried in this order, then in upper case (ours)."""
_ANY_CASE = (*EXTENSIONS, *map(str.upper, EXTENSIONS))


class PhotoSource(Protocol):
    """Resolves items to the bytes of their photos; called from many threads at once."""

    def read(self, item: ListItem, max_bytes: int) -> bytes:
        """The whole file; only its size is checked. PhotoError with the reason if it fails."""


class DatasetPhotos:
    """Photos of a data set: at the path in the list, named by id, or at their URLs.

    If the store as a whole fails, StorageError is raised, because no single item is the cause. If
    it refuses a single file, only that item is rejected.
    """

    def __init__(self, store: Store, downloads: Downloads, allowed: AllowedSources) -> None:
        self._store = store
        self._downloads = downloads
        self._allowed = allowed

    def read(self, item: ListItem, max_bytes: int) -> bytes:
        """Read the file, or download it from the first of the item's URLs that works."""
        if item.image.startswith(("http://", "https://")):
            return self._downloads.read((item.image,), max_bytes)
        if is_remote(item.image):
            self._allowed.check_s3(item.image)
            return _read(*_at_address(item.image), item.image, max_bytes)
        name = item.image or self._by_id(item.id)
        if name:
            return self._read_own(name, max_bytes)
        if item.urls:
            return self._downloads.read(item.urls, max_bytes)
        raise PhotoError(f"photo {PHOTO_FOLDER}/{item.id}{{{','.join(EXTENSIONS)}}}: missing")

    def _read_own(self, name: str, max_bytes: int) -> bytes:
        """A file of the data set, in whatever Unicode form its name is stored there."""
        forms = _forms(name)
        if isinstance(self._store, Folder):
            try:
                existing = (form for form in forms if self._store.local(form).exists())
                form = next(existing, name)
                self._allowed.check_file(self._store.root, self._store.local(form))
            except OSError as error:  # a name that is too long, or a loop of links
                raise PhotoError(f"photo {name:.80}: {error.strerror}") from error
            return _read(self._store, form, name, max_bytes)
        stored = (form for form in forms[1:] if self._store.find(form) is not None)
        try:
            return _read(self._store, name, name, max_bytes)
        except PhotoError as error:
            form = next(stored, "") if isinstance(error.__cause__, NotStoredError) else ""
            if not form:
                raise
            return _read(self._store, form, name, max_bytes)

    def _by_id(self, id: str) -> str:
        """Name of the photo of an id; empty if there is none.

        Names are looked up one by one, because a list of a million names would fill the memory.
        """
        names = [
            f"{PHOTO_FOLDER}/{form}{extension}" for form in _forms(id) for extension in _ANY_CASE
        ]
        if isinstance(self._store, Folder):
            return next((name for name in names if _is_file(self._store.local(name))), "")
        if not self._has_photos:
            return ""
        stored = {
            file.name
            for form in _forms(id)
            for file in self._store.files(f"{PHOTO_FOLDER}/{form}.")
        }
        return next((name for name in names if name in stored), "")

    @cached_property
    def _has_photos(self) -> bool:
        return next(iter(self._store.files(f"{PHOTO_FOLDER}/")), None) is not None


def photos_of(dataset: str, kept: str, config: IngestionConfig) -> DatasetPhotos:
    """The photos of a data set; downloads are kept at the address `kept`."""
    store = open_store(dataset)
    allowed = AllowedSources(config.allowed_sources, store.uri)
    downloads = Downloads(
        open_store(kept),
        allowed,
        attempts=config.download_attempts,
        timeout_s=config.download_timeout_s,
        num_connections=config.num_workers,
    )
    return DatasetPhotos(store, downloads, allowed)


@contextmanager
def local_lists(dataset: str, allowed_sources: Sequence[str] = ()) -> Iterator[Path]:
    """A folder with the data set's lists: the data set itself, or a temporary copy of its lists.

    Raises DatasetError for a list that is a link out of the data set, unless that is allowed.
    """
    store = open_store(dataset)
    if isinstance(store, Folder):
        require_own_lists(store.root, allowed_sources)
        yield store.root
        return
    with scratch_folder() as scratch:
        for name in list_names(store):
            store.fetch(name, Path(scratch, name))
        yield scratch


def require_own_lists(folder: Path, allowed_sources: Sequence[str] = ()) -> None:
    """DatasetError for a list that is a link out of its folder, unless that is allowed."""
    allowed = AllowedSources(allowed_sources)
    for name in DATASET_FILES:
        if (folder / name).is_symlink():
            try:
                allowed.check_file(folder, folder / name, "list")
            except PhotoError as error:
                raise DatasetError(f"{folder}: {error}") from error


def list_names(store: Store) -> list[str]:
    """The lists in a store, of either format; DatasetError if the store is empty."""
    if next(iter(store.files()), None) is None:
        raise DatasetError(
            f"{store.uri}: expected a data set with lists and photos, got an empty folder"
        )
    return [name for name in DATASET_FILES if store.find(name) is not None]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the decomposed form of a name can be too long for a file
        return False


def _forms(name: str) -> list[str]:
    """A name unchanged, composed (NFC) and decomposed (NFD, as macOS writes it into archives)."""
    composed, decomposed = (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
    return list(dict.fromkeys((name, composed, decomposed)))


def _at_address(address: str) -> tuple[Store, str]:
    try:
        return open_file(address)
    except StorageError as error:
        raise PhotoError(f"invalid address ({error})") from error


def _concerns_one_file(error: StorageError) -> bool:
    """Whether a store answered and refused only this file; others may be readable."""
    cause = error.__cause__
    if isinstance(cause, OSError):
        return True
    answer = getattr(cause, "response", None)  # botocore's ClientError
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode") if answer else None
    return status is not None and 400 <= status < 500


def _read(store: Store, name: str, shown: str, max_bytes: int) -> bytes:
    try:
        content = store.read(name, max_bytes)
    except NotStoredError as error:
        raise PhotoError(f"photo {shown}: missing") from error
    except TooLargeError as error:
        raise PhotoError(
            f"photo {shown} has {error.num_bytes} bytes, more than {error.max_bytes}"
        ) from error
    except StorageError as error:
        if not _concerns_one_file(error):
            raise
        reason = getattr(error.__cause__, "strerror", None) or str(error)
        raise PhotoError(f"photo {shown}: {reason}") from error
    if not content:
        raise PhotoError(f"photo {shown} is empty (0 bytes)")
    return content
