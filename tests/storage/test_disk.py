"""Errors of a full, read-only or forbidden disk name folder and space, whoever was writing."""

import errno
import os
import re
import resource
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
from PIL import Image

from product1m.artifacts.atomic import whole_file, whole_folder
from product1m.errors import NotStoredError, StorageError
from product1m.storage.disk import DiskError, disk_errors_explained, explain
from product1m.storage.locks import only_writer
from product1m.storage.opening import open_store
from product1m.synthesis.contact_sheets import write_grid

FULL = re.compile(
    r"/\S*: (the disk is full|a file could not be written whole): [\d.]+ [MG]iB of [\d.]+ [MG]iB "
    r"free; make space there or choose another folder, then run again"
)
RAW = (
    RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 521408 vs 521328"),
    RuntimeError(
        "Error in void faiss::write_index(const Index*, IOWriter*, int) at index_write.cpp:499: "
        "Error: 'ret == (size * 4)' failed: write error in /x/a.faiss: 5 != 6 (No space left on "
        "device)"
    ),
    Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
    Exception("No space left on device (os error 28)"),
    OSError(28, "Error writing bytes to file. Detail: [errno 28] No space left on device"),
    OSError("400000 requested and 1008 written"),
    OSError("Caught OSError in worker process 0.\nOSError: [Errno 28] No space left on device"),
    sqlite3.OperationalError("database or disk is full"),
)
"""What torch, FAISS, safetensors, tokenizers, pyarrow, numpy, a data loader and SQLite say of a
full disk, recorded on a tmpfs of 512 KiB."""


@pytest.mark.parametrize("error", RAW, ids=lambda error: str(error)[:30])
def test_a_full_disk_is_reported_with_the_folder_and_the_free_space(
    error: Exception, tmp_path: Path
) -> None:
    explained = explain(error, [tmp_path])
    assert explained is not None
    assert FULL.fullmatch(str(explained))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.EROFS, "x", "/a/b"), "/a/b: the file system is read-only"),
        (PermissionError(errno.EACCES, "x", "/a/b"), "/a/b: no permission for user"),
        (OSError(errno.EDQUOT, "x"), "HERE: your quota of space is used up"),
        (OSError(errno.EFBIG, "x"), "HERE: a file became larger than"),
        (OSError(errno.ELOOP, "x", "/a/b"), "/a/b: links lead back to themselves"),
        (OSError(errno.ENAMETOOLONG, "x", "/a/b"), "/a/b: the name is too long"),
        (OSError(errno.EBUSY, "x", "/a/b"), "/a/b: in use, for example as a mount point"),
        (FileNotFoundError(errno.ENOENT, "x", "/a/b"), "/a/b: no such file or folder"),
        (sqlite3.OperationalError("database is locked"), "HERE: the database is locked by another"),
        (sqlite3.OperationalError("unable to open database file"), "HERE: no permission"),
    ],
)
def test_other_refusals_are_reported_with_what_to_do(
    error: Exception, message: str, tmp_path: Path
) -> None:
    explained = explain(error, [tmp_path])
    assert str(explained).startswith(message.replace("HERE", str(tmp_path)))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("exit code: 2"),
        ConnectionRefusedError(111, "refused"),
        NotStoredError("/a: no such file"),
        RuntimeError("shapes differ"),
    ],
)
def test_other_errors_stay_what_they_are(error: Exception, tmp_path: Path) -> None:
    assert explain(error, [tmp_path]) is None
    with pytest.raises(type(error)), disk_errors_explained(tmp_path):
        raise error


NUMBERS = np.random.default_rng(0).random(100_000)
PICTURE = (NUMBERS.reshape(250, 400) * 255).astype(np.uint8)


def write_faiss(path: Path) -> None:
    import faiss

    index = faiss.IndexFlatL2(10)
    index.add(NUMBERS.reshape(-1, 10).astype(np.float32))
    faiss.write_index(index, str(path))


def write_torch(path: Path) -> None:
    import torch

    torch.save(torch.tensor(NUMBERS), path)


WRITERS: dict[str, Callable[[Path], object]] = {
    "torch": write_torch,
    "safetensors": lambda path: safetensors.numpy.save_file({"a": NUMBERS}, path),
    "parquet": lambda path: pq.write_table(pa.table({"a": NUMBERS}), path),
    "faiss": write_faiss,
    "numpy": lambda path: np.save(path.with_suffix(".npy"), NUMBERS),
    "pillow": lambda path: Image.fromarray(PICTURE).save(path, "PNG"),
    "opencv": lambda path: write_grid([np.repeat(PICTURE[..., None], 3, axis=2)], path, 1),
    "text": lambda path: path.write_text("x" * 800_000),
}


@contextmanager
def only_small_files() -> Iterator[None]:
    """No file of this process grows beyond 20 kB within the block."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    writes_bytecode = sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # compiled files of modules imported here would stay cut short
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        sys.dont_write_bytecode = writes_bytecode


@pytest.mark.parametrize("library", WRITERS)
def test_what_a_library_could_not_write_is_reported(library: str, tmp_path: Path) -> None:
    refused = pytest.raises(DiskError, match=re.escape(str(tmp_path)))
    with refused, whole_folder(tmp_path / "artifact") as partial, only_small_files():
        WRITERS[library](partial / "file.png")
    assert list(tmp_path.iterdir()) == [], "nothing half written stays"


def test_no_permission_names_the_user_and_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.getuid():
        (tmp_path / "closed").mkdir(mode=0o500)
        with (
            pytest.raises(DiskError, match="closed: no permission"),
            whole_folder(tmp_path / "closed" / "a"),
        ):
            pass
    (tmp_path / "file").write_text("x")
    for below in ("file/a", "file/b/a"):
        for writer in (whole_file, only_writer):
            refused = pytest.raises(DiskError, match="a part of this path is a file, not a folder")
            with refused, writer(tmp_path / below):
                pass
    refused = pytest.raises(DiskError, match="/proc/artifact: no such file or folder")
    with refused, only_writer(Path("/proc/artifact")):
        pass


def test_listings_pass_lost_and_found_and_name_dead_links_and_loops(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "lost+found" / "inode").write_text("x")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("abc")
    store = open_store(str(tmp_path))
    assert [file.name for file in store.files()] == ["photos/a.jpg"]
    (tmp_path / "photos" / "dead.jpg").symlink_to("nowhere.jpg")
    with pytest.raises(NotStoredError, match=r"dead\.jpg: a link to nowhere\.jpg, which does not"):
        list(store.files())
    (tmp_path / "photos" / "dead.jpg").unlink()
    (tmp_path / "photos" / "back").symlink_to(tmp_path)
    with pytest.raises(StorageError, match=r"back: a link that leads back to .*; remove the link"):
        list(store.files())


def test_a_home_folder_that_is_not_known_is_an_error() -> None:
    with (
        pytest.raises(DiskError, match="no home folder of that user; write the whole path"),
        disk_errors_explained(Path.cwd()),
    ):
        Path("~nobody-of-this-name/x").expanduser()
