"""The state of a data set: what changes its digest, and what is read for it."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from product1m.data import content_hashes
from product1m.data.state import data_digest
from product1m.storage.folder import Folder
from tests.support.worlds.small_datasets import small_dataset


def test_a_digest_changes_with_content_and_not_with_dates(tmp_path: Path) -> None:
    folder = small_dataset(tmp_path / "data")
    before = data_digest(Folder(folder))
    photo, items = folder / "images" / "train-0.jpg", folder / "train.jsonl"
    os.utime(photo, (0, 0))
    assert data_digest(Folder(folder)) == before
    text = items.read_text()
    items.write_text(text.replace("face cream 0", "face cream 9"))  # as many bytes
    assert data_digest(Folder(folder)) != before
    items.write_text(text)
    assert data_digest(Folder(folder)) == before
    content = photo.read_bytes()
    photo.write_bytes(content[:-1] + b"\0")  # in place, as many bytes
    assert data_digest(Folder(folder)) != before
    photo.write_bytes(content)
    assert data_digest(Folder(folder)) == before
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert data_digest(Folder(copy)) == before
    photo.rename(photo.with_name("other.jpg"))
    assert data_digest(Folder(folder)) != before


def test_an_unchanged_folder_is_read_once_and_a_changed_file_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(content_hashes, "SETTLED_S", -60.0)  # as if all was changed a minute ago
    read: list[str] = []
    original = content_hashes._md5

    def noted(path: Path) -> str:
        read.append(path.name)
        return original(path)

    monkeypatch.setattr(content_hashes, "_md5", noted)
    folder = small_dataset(tmp_path / "data")
    before = data_digest(Folder(folder))
    assert len(read) == 12
    read.clear()
    assert data_digest(Folder(folder)) == before
    assert read == []
    photo = folder / "images" / "train-0.jpg"
    state = photo.stat()
    photo.write_bytes(photo.read_bytes()[:-1] + b"\0")
    os.utime(photo, ns=(state.st_atime_ns, state.st_mtime_ns))  # even with its old date
    assert data_digest(Folder(folder)) != before
    assert read == ["train-0.jpg"]


def test_hashes_that_cannot_be_kept_cost_time_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = small_dataset(tmp_path / "data")
    before = data_digest(Folder(folder))
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert data_digest(Folder(folder)) == before
    broken = tmp_path / "broken" / content_hashes.FOLDER
    broken.mkdir(parents=True)
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:32]
    (broken / f"{name}.sqlite").write_bytes(b"damaged" * 1000)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "broken"))
    assert data_digest(Folder(folder)) == before
    monkeypatch.setenv("XDG_CACHE_HOME", "~nobody-of-this-name/cache")
    assert data_digest(Folder(folder)) == before
