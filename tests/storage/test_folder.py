"""Files of a folder store: after writers that were killed, and with several at once."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from product1m.errors import StorageError
from product1m.storage.folder import Folder, remove_unfinished


def test_what_a_killed_writer_left_is_used_by_the_next_one(tmp_path: Path) -> None:
    store, source = Folder(tmp_path / "store"), tmp_path / "shard.tar"
    source.write_bytes(b"whole")
    for name in ("objects/shard.tar", "artifacts/manifest.json"):
        path = store.local(name)
        path.parent.mkdir(parents=True)
        path.with_name(f".{path.name}.partial").write_bytes(b"the half that a killed writer wrote")
    store.put(source, "objects/shard.tar", hashlib.sha256(b"whole").hexdigest())
    assert store.publish("artifacts/manifest.json", b"{}")
    files = {path.name: path.read_bytes() for path in store.root.rglob("*") if path.is_file()}
    assert files == {"shard.tar": b"whole", "manifest.json": b"{}"}


def test_of_several_publishers_at_once_one_wins_and_nothing_is_left(tmp_path: Path) -> None:
    store = Folder(tmp_path / "store")
    contents = [str(number).encode() * 1000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda content: store.publish("manifest.json", content), contents))
    assert won.count(True) == 1
    assert store.read("manifest.json") == contents[won.index(True)]
    assert [path.name for path in store.root.iterdir()] == ["manifest.json"]


def test_what_is_published_stays_though_its_writer_was_killed_before_it_removed_its_own_link(
    tmp_path: Path,
) -> None:
    store = Folder(tmp_path)
    store.publish("1.json", b"the first edit")
    os.link(tmp_path / "1.json", tmp_path / ".1.json.partial")
    assert not store.publish("1.json", b"another edit with this number")
    assert store.publish("1.json", b"the first edit")
    os.link(tmp_path / "1.json", tmp_path / ".1.json.partial")
    remove_unfinished(tmp_path)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("1.json", b"the first edit")]


@pytest.mark.parametrize("kind", ["pipe", "device", "loop", "name"])
def test_what_is_no_file_is_named_and_never_waited_for(kind: str, tmp_path: Path) -> None:
    place, reason = tmp_path / "images", "a pipe, socket or device, not a file"
    place.mkdir()
    if kind == "pipe":
        os.mkfifo(place / "x.jpg")
    elif kind == "device":
        (place / "x.jpg").symlink_to("/dev/zero")
    elif kind == "loop":
        (place / "x.jpg").symlink_to("x.jpg")
        reason = "links lead back to themselves"
    else:
        Path(os.fsdecode(os.fsencode(place) + b"/x\xff.jpg")).write_bytes(b"")
        reason = "the name is not UTF-8"
    with pytest.raises(StorageError, match=rf"images/x.*\.jpg: {reason}"):
        list(Folder(tmp_path).files())
    if kind != "name":
        with pytest.raises(StorageError, match=reason):
            Folder(tmp_path).read("images/x.jpg")
