"""Where an item's photo comes from: the bytes behind a list's line."""

from pathlib import Path
from typing import Protocol

from product1m.data.lists import PHOTO_FOLDER, ListItem
from product1m.errors import DatasetError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
"""Tried in this order, then in capitals, for photos that are named by id (ours)."""


class PhotoError(DatasetError):
    """A photo that cannot be had or used; the message is the reason its item is set aside."""


class PhotoSource(Protocol):
    """Resolves items to the bytes of their photos; called from many threads at once."""

    def read(self, item: ListItem, max_bytes: int) -> bytes:
        """The whole file, unchecked but for its size; PhotoError with the reason otherwise."""


class LocalPhotos:
    """Photos as files: at the path the list gives, or at `images/{id}.<extension>`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, item: ListItem, max_bytes: int) -> bytes:
        """Read the file; its size is looked at first."""
        if "://" in item.image:
            raise PhotoError(f"photo {item.image} is no file of the data set; fetch it there first")
        path = self._folder / item.image if item.image else self._by_id(item.id)
        try:
            num_bytes = path.stat().st_size
            if num_bytes == 0:
                raise PhotoError(f"photo {self._name(path)} is empty (0 bytes)")
            if num_bytes > max_bytes:
                raise PhotoError(
                    f"photo {self._name(path)} has {num_bytes} bytes, more than {max_bytes}"
                )
            return path.read_bytes()
        except OSError as error:
            reason = "missing" if isinstance(error, FileNotFoundError) else error.strerror
            raise PhotoError(f"photo {self._name(path)}: {reason}") from error

    def _by_id(self, id: str) -> Path:
        # Asked one by one, not listed: a million names would have to be held in memory.
        folder = self._folder / PHOTO_FOLDER
        for extension in (*EXTENSIONS, *map(str.upper, EXTENSIONS)):
            path = folder / f"{id}{extension}"
            if path.is_file():
                return path
        raise PhotoError(f"photo {PHOTO_FOLDER}/{id}{{{','.join(EXTENSIONS)}}}: missing")

    def _name(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()
