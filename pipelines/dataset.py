"""What a run reads: checked before any work, and digested so that changed data voids the cache."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from product1m.artifacts import sha256_of
from product1m.data.lists import find_lists
from product1m.errors import DatasetError

LIST_SUFFIXES = (".jsonl", ".txt")


def data_parameters(dataset: str, backgrounds: str = "") -> dict[str, str]:
    """The pipeline's data parameters; DatasetError before any work if there is no such data.

    Without `backgrounds` the data set's own `backgrounds/` is taken where there is one.
    """
    folder = check_dataset(dataset)
    own = folder / "backgrounds"
    photos: Path | None = own if own.is_dir() else None
    if backgrounds:
        photos = existing_folder(backgrounds, "--backgrounds")
    return {
        "dataset_uri": str(folder),
        "dataset_digest": folder_digest(folder, leave_out=own),
        "backgrounds_uri": str(photos or ""),
        "backgrounds_digest": folder_digest(photos) if photos else "",
    }


def check_dataset(dataset: str) -> Path:
    """The data set's folder; DatasetError if it is absent or holds no lists."""
    folder = existing_folder(dataset, "--dataset")
    find_lists(folder)
    return folder


def existing_folder(uri: str, option: str) -> Path:
    """A local folder as an absolute path; DatasetError names the option it came from."""
    if "://" in uri:
        raise DatasetError(f"{option} {uri}: a local run reads local folders")
    folder = Path(uri).expanduser().resolve()
    if not folder.is_dir():
        raise DatasetError(f"{option} {folder}: no such folder")
    return folder


def folder_digest(folder: Path, leave_out: Path | None = None) -> str:
    """SHA-256 over a folder: content of the lists, name and size of every other file."""
    digest = hashlib.sha256()
    for path in _files(folder, leave_out):
        name = path.relative_to(folder).as_posix()
        is_list = path.parent == folder and path.suffix in LIST_SUFFIXES
        fact = sha256_of(path) if is_list else str(path.stat().st_size)
        digest.update(f"{name}\0{fact}\n".encode())
    return digest.hexdigest()


def _files(folder: Path, leave_out: Path | None) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if Path(root, name) != leave_out)
        yield from (Path(root, name) for name in sorted(files))
