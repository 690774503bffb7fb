import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from product1m.catalogue.new_items import from_dataset, from_photo
from product1m.catalogue.store import CatalogueStore
from product1m.errors import DatasetError
from tests.support.servers.s3_server import S3Server
from tests.support.worlds.small_catalogue import copy_gallery, write_photo
from tests.support.worlds.tiny_world import TinyArtifacts


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return write_photo(tmp_path / "photo.jpg", 3)


def test_edits_change_the_list_and_stand_in_the_log(tmp_path: Path, photo: Path) -> None:
    store = CatalogueStore(str(tmp_path / "shop"))
    store.add([from_photo(photo, "a", "Lumi  rose"), from_photo(photo, "b", "Lumi fig")], "Ann")
    store.add([from_photo(photo, "a", "Lumi rose 50 ml", "rose")], "Bo", "new size")
    edit = store.remove(["b"], "Ann", "sold")
    assert (edit.number, edit.act, edit.by, edit.reason) == (3, "remove", "Ann", "sold")
    (line,) = (tmp_path / "shop" / "gallery.jsonl").read_text("utf-8").splitlines()
    item = json.loads(line)
    assert (item["caption"], item["labels"]) == ("Lumi rose 50 ml", ["rose"])
    assert (tmp_path / "shop" / item["image"]).is_file()
    assert [(e.act, e.items) for e in CatalogueStore(str(tmp_path / "shop")).edits()] == [
        ("add", ["a", "b"]),
        ("add", ["a"]),
        ("remove", ["b"]),
    ]


def test_an_unknown_item_or_one_that_no_step_would_read_changes_nothing(
    tmp_path: Path, photo: Path
) -> None:
    store = CatalogueStore(str(tmp_path / "shop"))
    store.add([from_photo(photo, "a", "Lumi rose")], "Ann")
    with pytest.raises(DatasetError, match="no item x; nothing was changed"):
        store.remove(["a", "x"], "Ann")
    with pytest.raises(DatasetError, match=r"item a,b: .*comma"):
        from_photo(photo, "a,b", "Lumi rose")
    with pytest.raises(DatasetError, match="title: empty"):
        from_photo(photo, "a", "  ")
    for path, reason in (
        ("/dev/zero", "device, not a file"),
        (".", "folder"),
        ("x.jpg", "no such"),
    ):
        with pytest.raises(DatasetError, match=rf"--photo .*{reason}"):
            from_photo(Path(path), "c", "Lumi rose")
    assert list(store.lines()) == ["a"]


def test_a_label_with_another_programs_line_end_is_one_line_of_the_list(
    tmp_path: Path, photo: Path
) -> None:
    store = CatalogueStore(str(tmp_path / "shop"))
    store.add([from_photo(photo, "a", "Lumi rose", "one\u2028two\x85three")], "Ann")
    store.add([from_photo(photo, "b", "Lumi fig")], "Ann")
    assert store.lines()["a"]["labels"] == ["one\u2028two\x85three"]


@pytest.mark.parametrize("line", [b'{"id": "M\xfcller"}', b"[" * 100_000, b"\xff\xfe", b"[1]"])
def test_a_list_that_somebody_damaged_is_told_with_its_line(
    tmp_path: Path, photo: Path, line: bytes
) -> None:
    store = CatalogueStore(str(tmp_path / "shop"))
    store.add([from_photo(photo, "a", "Lumi rose")], "Ann")
    with (tmp_path / "shop" / "gallery.jsonl").open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(DatasetError, match=r"gallery\.jsonl:2: expected a JSON object with an id"):
        store.lines()


def test_edits_at_the_same_time_all_count(tmp_path: Path, photo: Path) -> None:
    names = [f"item{number}" for number in range(8)]

    def add(name: str) -> int:
        store = CatalogueStore(str(tmp_path / "shop"))
        return store.add([from_photo(photo, name, "Lumi rose")], name).number

    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(add, names))
    assert sorted(numbers) == list(range(1, 9))
    assert set(CatalogueStore(str(tmp_path / "shop")).lines()) == set(names)


def test_a_list_that_was_edited_by_hand_is_taken_over_and_a_killed_edit_completed(
    tmp_path: Path, made: TinyArtifacts
) -> None:
    folder = copy_gallery(made, tmp_path / "shop")
    store = CatalogueStore(str(folder))
    assert len(store.lines()) == 8
    store.remove(["gallery-0"], "Ann")
    before = (folder / "gallery.jsonl").read_bytes()
    store.remove(["gallery-1"], "Ann")
    (folder / "gallery.jsonl").write_bytes(before)  # as if killed before the list was written
    assert len(CatalogueStore(str(folder)).lines()) == 6
    kept = (folder / "gallery.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "gallery.jsonl").write_bytes(b"".join(kept[2:]))
    assert len(store.lines()) == 4
    assert [edit.act for edit in store.edits()] == ["remove", "remove", "edited by hand"]
    assert len(CatalogueStore(str(folder)).lines()) == 4


def test_a_catalogue_on_s3_is_edited_alike(
    tmp_path: Path, made: TinyArtifacts, s3: S3Server
) -> None:
    folder = copy_gallery(made, tmp_path / "given")
    store = CatalogueStore(s3.copy(tmp_path / "none", "shop"))
    store.add(from_dataset(str(folder)), "Ann")
    store.remove(["gallery-3"], "Ann")
    assert len(store.lines()) == 7
    assert len(store.store.read("gallery.jsonl").splitlines()) == 7
