"""Item tables beside tar shards."""

import hashlib
import tarfile
from pathlib import Path

import numpy as np
import pytest

from product1m.artifacts.folder import Artifact, open_artifact, write_artifact
from product1m.config import IngestionConfig
from product1m.data import items as item_table
from product1m.data.items import ITEMS, ItemTable, ItemWriter, read_items
from product1m.errors import DatasetError
from tests.support.worlds.photo_files import encoded, picture

PHOTOS = [encoded(picture(seed, (30 + seed, 20))) for seed in range(5)]


def write(folder: Path, photos: list[bytes] = PHOTOS, shard_mib: int = 256) -> Artifact:
    with (
        write_artifact(folder, "ingestion", IngestionConfig(), part="train") as writer,
        ItemWriter(writer.folder, shard_mib=shard_mib) as items,
    ):
        for number, photo in enumerate(photos):
            items.add(
                f"id-{number}",
                photo,
                (30 + number, 20),
                caption=f"洗面奶 {number}",
                labels=[f"class-{number}"] * (number % 3),
                group=number // 2,
                split="dev" if number % 2 else "test",
            )
        assert len(items) == len(photos)
    return open_artifact(folder, "ingestion", "train")


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    table = ItemTable(write(tmp_path / "train"))
    assert len(table) == 5
    for number, photo in enumerate(PHOTOS):
        row = table.rows.iloc[number]
        assert row["id"] == f"id-{number}"
        assert row["caption"] == f"洗面奶 {number}"
        assert row["labels"] == [f"class-{number}"] * (number % 3)
        assert (row["group"], row["split"]) == (number // 2, "dev" if number % 2 else "test")
        assert (row["width"], row["height"]) == (30 + number, 20)
        assert row["sha256"] == hashlib.sha256(photo).hexdigest()
        assert table.encoded(number) == photo
        assert table.photo(number).shape == (20, 30 + number, 3)


def test_shards_are_plain_tar_files_with_a_member_an_item(tmp_path: Path) -> None:
    artifact = write(tmp_path / "train")
    with tarfile.open(artifact.file("images-00000.tar")) as shard:
        members = shard.getmembers()
        assert [member.name for member in members] == [f"id-{number}.jpg" for number in range(5)]
        contents = [shard.extractfile(member) for member in members]
        assert [file.read() for file in contents if file] == PHOTOS


def test_a_full_shard_is_followed_by_another(tmp_path: Path) -> None:
    photos = [np.random.default_rng(seed).bytes(400_000) for seed in range(6)]
    table = ItemTable(write(tmp_path / "train", photos, shard_mib=1))
    assert list(table.rows["shard"]) == [f"images-0000{number // 2}.tar" for number in range(6)]
    assert [table.encoded(number) for number in range(6)] == photos
    assert all(path.stat().st_size <= 1 << 20 for path in table.artifact.files("*.tar"))


def test_a_table_longer_than_a_row_group_keeps_its_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_table, "ROWS_PER_GROUP", 2)
    assert list(read_items(write(tmp_path / "train"))["id"]) == [f"id-{n}" for n in range(5)]


def test_an_empty_table_can_be_read(tmp_path: Path) -> None:
    assert len(ItemTable(write(tmp_path / "train", []))) == 0


def test_an_error_while_writing_leaves_no_table_of_the_rows_so_far(tmp_path: Path) -> None:
    def write_half() -> None:
        with ItemWriter(tmp_path) as items:
            items.add("a", PHOTOS[0], (30, 20), caption="a")
            raise DatasetError("stop")

    with pytest.raises(DatasetError, match="stop"):
        write_half()
    assert not (tmp_path / ITEMS).exists()


def test_a_photo_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    table = ItemTable(write(tmp_path / "train", [b"no photo"]))
    with pytest.raises(DatasetError, match=r"train/id-0: not a photo .*\(8 bytes\)"):
        table.photo(0)
