"""Files of a folder store: after writers that were killed, and with several at once."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from product1m.storage.folder import Folder


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
