"""Stores: a folder and a real S3 server behave alike, and S3 stays right when things go wrong."""

import hashlib
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from product1m.artifacts.shards import ShardId, fetch_verified
from product1m.errors import NotStoredError, StorageError, TooLargeError
from product1m.storage import s3_client
from product1m.storage.base import Store
from product1m.storage.opening import local_file, open_file, open_store, with_remote_fetched
from tests.support.servers.fault_proxy import Fault, FaultProxy, running_proxy
from tests.support.servers.s3_server import BUCKET, READER, S3Server

MIB = 1 << 20
PART_BYTES = 5 * MIB
"""The smallest part S3 takes."""
READ_TIMEOUT_S = 2.0
"""Less than the proxy stalls, more than a busy machine takes to answer."""


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return open_store(str(tmp_path / "store"))
    request.getfixturevalue("s3")
    return open_store(f"s3://{BUCKET}/{tmp_path.name}")


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy before the server; the environment names it, and waits are short."""
    monkeypatch.setattr(s3_client, "READ_TIMEOUT_S", READ_TIMEOUT_S)
    monkeypatch.setattr(s3_client, "MAX_BACKOFF_S", 0.01)
    monkeypatch.setattr(s3_client, "PART_BYTES", PART_BYTES)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", no_delay)
    with running_proxy(s3.port) as proxy:
        for name, value in s3.environment(proxy.port).items():
            monkeypatch.setenv(name, value)
        yield proxy


def no_delay(self: object, context: object) -> float:
    return 0.01


def written(path: Path, num_bytes: int) -> tuple[Path, str]:
    """A file that looks nothing like itself elsewhere, and its digest."""
    block = hashlib.shake_256(path.name.encode()).digest(MIB)
    content = b"".join(
        number.to_bytes(4, "big") + block[4:] for number in range(num_bytes // MIB + 1)
    )[:num_bytes]
    path.write_bytes(content)
    return path, hashlib.sha256(content).hexdigest()


def test_what_is_put_is_found_read_and_fetched(store: Store, tmp_path: Path) -> None:
    path, sha256 = written(tmp_path / "file", 100_000)
    content = path.read_bytes()
    store.put(path, "deep/in/it.bin", sha256)
    assert store.read("deep/in/it.bin") == content
    assert store.read_range("deep/in/it.bin", 99_990, 100) == content[99_990:]
    assert store.read_range("deep/in/it.bin", 200_000, 5) == b""
    found = store.find("deep/in/it.bin")
    assert found is not None
    assert found.num_bytes == 100_000
    assert found.sha256 in ("", sha256)
    store.fetch("deep/in/it.bin", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content
    address = store.address("deep/in/it.bin")
    inner, name = open_file(address)
    assert inner.read(name, 100_000) == content
    with local_file(address) as local:
        assert local.read_bytes() == content


def test_what_is_not_there_is_told_from_what_is_too_large(store: Store, tmp_path: Path) -> None:
    assert list(store.files()) == []
    assert store.find("nothing") is None
    for read in (lambda: store.read("nothing"), lambda: store.fetch("nothing", tmp_path / "x")):
        with pytest.raises(NotStoredError, match="nothing: no such"):
            read()
    store.publish("ten", b"0123456789")
    store.publish("empty", b"")
    assert store.read("ten", 10) == b"0123456789"
    assert store.read("empty", 10) == b""
    with pytest.raises(TooLargeError, match="ten has 10 bytes, more than 9"):
        store.read("ten", 9)
    with pytest.raises(StorageError, match="refused"):
        store.read("../ten")


def test_files_are_listed_by_the_start_of_their_name(store: Store) -> None:
    names = ["a.txt", "a/b", "a/c/d", "a0", "zebra", "零", "Z", "a-b", "a/b.txt"]
    for name in names:
        store.publish(name, name.encode())
    assert {file.name: file.num_bytes for file in store.files()} == {
        name: len(name.encode()) for name in names
    }
    assert {file.name for file in store.files("a/b")} == {"a/b", "a/b.txt"}
    assert list(store.files("nowhere/")) == []


def test_of_many_who_publish_one_wins(store: Store) -> None:
    start = threading.Barrier(8)

    def publish(number: int) -> bool:
        start.wait()
        return store.publish("manifest.json", f"of writer {number}".encode())

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(publish, range(8)))
    assert won.count(True) == 1
    assert store.read("manifest.json") == f"of writer {won.index(True)}".encode()
    assert store.publish("manifest.json", b"late") is False


def test_a_file_is_replaced_whatever_was_there_and_removed(store: Store) -> None:
    for content in (b"first", b"other", b"longer than both"):
        store.replace("folder/list.jsonl", content)
        assert store.read("folder/list.jsonl") == content
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: store.replace("folder/list.jsonl", b"%d" % n * 9), range(16)))
    assert store.read("folder/list.jsonl") in [b"%d" % n * 9 for n in range(16)]
    assert [file.name for file in store.files()] == ["folder/list.jsonl"]
    for _ in range(2):
        store.remove("folder/list.jsonl")
        assert store.find("folder/list.jsonl") is None


def test_a_small_prefix_is_fetched_as_a_folder(s3: S3Server, tmp_path: Path) -> None:
    (tmp_path / "bert" / "sub").mkdir(parents=True)
    (tmp_path / "bert" / "config.json").write_text("{}")
    (tmp_path / "bert" / "sub" / "vocab.txt").write_text("a")
    address = s3.copy(tmp_path / "bert", f"{tmp_path.name}/bert")
    with with_remote_fetched(address) as folder:
        assert Path(folder, "sub", "vocab.txt").read_text() == "a"
    assert not Path(folder).exists()
    with with_remote_fetched("bert-base-chinese") as name:
        assert name == "bert-base-chinese"
    with pytest.raises(NotStoredError), with_remote_fetched(f"{address}/none"):
        pass


@pytest.mark.parametrize(
    "fault", ["reset", "error", "slow_down", "truncate", "stall", "trickle", "corrupt"]
)
def test_a_read_comes_out_right_whatever_happens_to_it(proxy: FaultProxy, fault: Fault) -> None:
    store = open_store(f"s3://{BUCKET}/reads-{fault}")
    content = os.urandom(300_000)
    store.publish("file", content)
    times = 1 if fault == "stall" else 2
    proxy.inject(fault, times)
    assert store.read("file") == content
    assert proxy.count("GET") == (1 if fault == "trickle" else 1 + times)
    if fault not in ("stall", "corrupt"):  # a part has no checksum; who reads one has a digest
        proxy.inject(fault)
        assert store.read_range("file", 1000, 200_000) == content[1000:201_000]


def test_a_truncated_read_goes_on_where_it_broke_off(proxy: FaultProxy) -> None:
    store = open_store(f"s3://{BUCKET}/resumed")
    store.publish("file", b"x" * 400_000)
    asked: list[str] = []

    def note(request: Any, **_: object) -> None:
        value = request.headers.get("Range") or ""
        asked.append(value.decode() if isinstance(value, bytes) else value)

    s3_client.client().meta.events.register("before-sign.s3.GetObject", note)
    proxy.inject("truncate")
    assert store.read("file") == b"x" * 400_000
    assert asked == ["", "bytes=200000-"]


def test_an_object_that_keeps_breaking_off_is_named(proxy: FaultProxy) -> None:
    store = open_store(f"s3://{BUCKET}/hopeless")
    store.publish("file", b"x" * 1000)
    proxy.inject("reset", times=100)
    with pytest.raises(StorageError, match=r"s3://data/hopeless/file: .*cannot be reached"):
        store.read("file")
    assert proxy.count("GET") == s3_client.ATTEMPTS**2, "each request, and the whole read"


def test_a_multipart_upload_comes_out_right_whatever_happens_to_it(
    proxy: FaultProxy, tmp_path: Path
) -> None:
    path, sha256 = written(tmp_path / "shard", 2 * PART_BYTES + MIB)
    store = open_store(f"s3://{BUCKET}/uploads")
    faults: tuple[Fault, ...] = ("reset", "error", "slow_down", "lose_answer")
    for fault in faults:
        proxy.inject(fault, method="PUT")
    proxy.inject("error", method="POST")
    store.put(path, "shard", sha256)
    assert proxy.count("PUT") == 3 + len(faults)
    assert hashlib.sha256(store.read("shard")).hexdigest() == sha256
    store.put(path, "shard", sha256)
    assert proxy.count("PUT") == 3 + len(faults), "what is there is not sent again"


def test_a_download_in_parts_comes_out_right_whatever_happens_to_it(
    proxy: FaultProxy, tmp_path: Path
) -> None:
    path, sha256 = written(tmp_path / "shard", 2 * PART_BYTES + MIB)
    store = open_store(f"s3://{BUCKET}/downloads")
    store.put(path, "shard", sha256)
    faults: tuple[Fault, ...] = ("reset", "truncate", "stall", "error")
    for fault in faults:
        proxy.inject(fault)
    store.fetch("shard", tmp_path / "back", sha256)
    assert (tmp_path / "back").read_bytes() == path.read_bytes()
    assert proxy.count("GET") == 3 + len(faults)


@pytest.mark.parametrize("num_bytes", [MIB, 2 * PART_BYTES])
def test_a_shard_that_changes_on_its_way_down_is_fetched_again(
    proxy: FaultProxy, tmp_path: Path, num_bytes: int
) -> None:
    path, sha256 = written(tmp_path / "shard", num_bytes)
    shard = ShardId("images.tar", sha256, num_bytes)
    store = open_store(f"s3://{BUCKET}/shards")
    store.put(path, shard.place, sha256)
    proxy.inject("corrupt")
    fetch_verified(store, shard, tmp_path / "back", "ingestion")
    assert (tmp_path / "back").read_bytes() == path.read_bytes()
    assert proxy.count("GET") == {MIB: 2, 2 * PART_BYTES: 5}[num_bytes]


@pytest.mark.parametrize("num_bytes", [MIB, 12 * MIB])
def test_bytes_that_change_on_their_way_up_are_sent_again(
    proxy: FaultProxy, tmp_path: Path, num_bytes: int
) -> None:
    path, sha256 = written(tmp_path / "shard", num_bytes)
    store = open_store(f"s3://{BUCKET}/corrupted-{num_bytes}")
    proxy.inject("corrupt_upload", 2, method="PUT")
    store.put(path, "shard", sha256)
    assert hashlib.sha256(store.read("shard")).hexdigest() == sha256


def test_bytes_that_always_change_on_their_way_up_are_told(
    proxy: FaultProxy, tmp_path: Path
) -> None:
    path, sha256 = written(tmp_path / "shard", MIB)
    store = open_store(f"s3://{BUCKET}/always-corrupted")
    proxy.inject("corrupt_upload", 100, method="PUT")
    with pytest.raises(StorageError, match=r"s3://data/always-corrupted/shard: damaged in transit"):
        store.put(path, "shard", sha256)
    assert store.find("shard") is None


def test_a_publication_whose_answer_is_lost_is_still_its_writers(proxy: FaultProxy) -> None:
    store = open_store(f"s3://{BUCKET}/lost")
    proxy.inject("lose_answer", method="PUT")
    assert store.publish("manifest.json", b"mine") is True
    assert store.publish("manifest.json", b"another's") is False
    assert store.read("manifest.json") == b"mine"


def test_errors_say_what_to_do(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, sha256 = written(tmp_path / "file", 10)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StorageError, match=r"s3://nowhere/x: there is no bucket 'nowhere' at http"):
        list(open_store("s3://nowhere/x").files())
    with pytest.raises(StorageError, match="there is no bucket 'nowhere'"):
        open_store("s3://nowhere").put(path, "x", sha256)
    with pytest.raises(StorageError, match="expected s3://BUCKET/PREFIX, got bucket 'A B'"):
        open_store("s3://A B/x")
    with pytest.raises(StorageError, match="s3://: expected s3://BUCKET/PREFIX, got bucket ''"):
        open_store("s3://")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER)
    with pytest.raises(StorageError, match=r"s3://data/x/y: access denied by http"):
        open_store(f"s3://{BUCKET}/x").put(path, "y", sha256)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    with pytest.raises(StorageError, match="does not accept the credentials"):
        open_store(f"s3://{BUCKET}/x").read("y")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match=r"127\.0\.0\.1:9 cannot be reached.*AWS_ENDPOINT_URL"):
        open_store(f"s3://{BUCKET}/x").read("y")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_EC2_METADATA_DISABLED", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "true")
    with pytest.raises(StorageError, match=r"no credentials .*set AWS_ACCESS_KEY_ID"):
        open_store(f"s3://{BUCKET}/x").read("y")


def test_memory_does_not_grow_with_a_file(s3: S3Server, tmp_path: Path) -> None:
    """60 MiB go up and come down again in parts of 5 MiB, four at once."""
    path, sha256 = written(tmp_path / "large", 60 * MIB)
    script = f"""
        import resource
        from pathlib import Path
        from product1m.storage import s3_client
        from product1m.storage.opening import open_store
        s3_client.PART_BYTES = {PART_BYTES}
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        store = open_store("s3://{BUCKET}/{tmp_path.name}")
        store.publish("small", b"loads what is loaded late")
        before = peak()
        store.put(Path({str(path)!r}), "large", {sha256!r})
        store.fetch("large", Path({str(tmp_path / "back")!r}))
        print(peak() - before)
    """
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], check=True, capture_output=True, text=True
    ).stdout
    assert (tmp_path / "back").stat().st_size == 60 * MIB
    assert float(out) < 45


def test_a_tilde_is_the_home_folder_and_file_addresses_are_unquoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a b%c?d").write_text("content")
    for address in ("~/a b%c?d", str(tmp_path / "a b%c?d"), (tmp_path / "a b%c?d").as_uri()):
        store, name = open_file(address)
        assert store.read(name) == b"content"
    assert open_store("~").uri == str(tmp_path)
    with with_remote_fetched("~/bert") as folder:
        assert folder == str(tmp_path / "bert")


@pytest.mark.parametrize("name", ["./photos/a.jpg", "photos//a.jpg", "photos/./a.jpg"])
def test_a_name_has_one_form(store: Store, name: str) -> None:
    store.publish("photos/a.jpg", b"photo")
    assert store.read(name) == b"photo"
    assert store.address(name).endswith("/photos/a.jpg")
