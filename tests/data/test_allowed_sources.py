"""A list of products cannot make the pipeline read what it has no business with."""

import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from product1m.artifacts.folder import open_artifact
from product1m.config import IngestionConfig
from product1m.data.allowed_sources import AllowedSources
from product1m.data.downloads import Downloads
from product1m.errors import ConfigError, DatasetError, PhotoError
from product1m.sample.cut import cut_sample
from product1m.steps import ingestion
from product1m.storage.opening import open_store
from tests.support.worlds.photo_files import encoded, picture

NOT_PUBLIC = "is not a public address"


def resolving(monkeypatch: pytest.MonkeyPatch, answers: dict[str, Sequence[str]]) -> None:
    """Names resolve as a server of names would answer; addresses as always."""
    real = socket.getaddrinfo

    def resolve(host: str, port: int, *rest: Any, **named: Any) -> Any:
        if host not in answers:
            return real(host, port, *rest, **named)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in answers[host]]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "localhost", "0.0.0.0",
        "10.0.0.1", "172.16.3.4", "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1",
        "255.255.255.255", "[::1]", "[::]", "[fe80::1]", "[fd00:ec2::254]", "[ff02::1]",
        "[::ffff:127.0.0.1]", "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]",
        "[2002:7f00:1::]", "[fec0::1]", "[3fff::1]", "192.0.0.8", "192.88.99.1",
    ],
)  # fmt: skip
def test_hosts_that_are_not_public_are_refused(host: str) -> None:
    with pytest.raises(PhotoError, match=f"{NOT_PUBLIC}; .* ingestion.allowed_sources"):
        AllowedSources(()).addresses(host, 80)


@pytest.mark.parametrize("host", ["8.8.8.8", "[2606:4700::1111]", "[64:ff9b::808:808]"])
def test_public_hosts_are_allowed(host: str) -> None:
    assert AllowedSources(()).addresses(host, 80) == [host.strip("[]")]


def test_of_a_names_addresses_only_the_allowed_ones_are_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolving(monkeypatch, {"shop": ["10.1.2.3", "8.8.8.8"], "inner": ["10.1.2.3"]})
    assert AllowedSources(()).addresses("shop", 80) == ["8.8.8.8"]
    with pytest.raises(PhotoError, match=r"inner \(10\.1\.2\.3\) is not a public"):
        AllowedSources(()).addresses("inner", 80)
    for entry in ("inner", "INNER", "10.1.2.3", "10.0.0.0/8"):
        assert AllowedSources((entry,)).addresses("inner", 80) == ["10.1.2.3"]
    with pytest.raises(PhotoError, match=NOT_PUBLIC):
        AllowedSources(("other", "10.9.0.0/16")).addresses("inner", 80)


@pytest.mark.parametrize("entry", ["http://host/x", "a b", "10.0.0.0/99", "relative/folder", ""])
def test_an_entry_that_is_no_place_is_a_mistake_in_the_configuration(entry: str) -> None:
    with pytest.raises(ConfigError, match=r"ingestion\.allowed_sources"):
        AllowedSources((entry,))


def test_the_connection_goes_to_the_address_that_was_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that resolves to a public address first and to this machine a moment later."""
    answers = iter(["8.8.8.8", "127.0.0.1", "127.0.0.1"])
    connected: list[str] = []

    def resolve(host: str, port: int, *_: Any, **__: Any) -> Any:
        ip = next(answers) if host == "rebinding.test" else host
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port))]

    def connect(address: tuple[str, int], *_: Any, **__: Any) -> socket.socket:
        connected.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr("urllib3.util.connection.create_connection", connect)
    fetching = Downloads(
        open_store(str(tmp_path)), AllowedSources(()), attempts=1, timeout_s=1, num_connections=1
    )
    with pytest.raises(PhotoError, match="no connection"):
        fetching.read(["http://rebinding.test/a.jpg"], 1000)
    assert connected == ["8.8.8.8"]
    with pytest.raises(PhotoError, match=NOT_PUBLIC):
        fetching.read(["http://rebinding.test/a.jpg"], 1000)
    assert connected == ["8.8.8.8"]


def write_dataset(folder: Path, images: Sequence[str]) -> None:
    """A data set whose gallery names `images`; the other lists are sound."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(("sound", "other")):
        (folder / "images" / f"{name}.jpg").write_bytes(encoded(picture(10 + number)))
    for role in ("train", "gallery", "queries"):
        more = images if role == "gallery" else ("images/other.jpg",)
        names = ["images/sound.jpg", *more]
        rows = [
            {"id": f"{role}{place}", "caption": f"{role} {place}", "labels": ["A"], "image": name}
            | ({"split": "dev" if place else "test"} if role == "queries" else {})
            for place, name in enumerate(names)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{role}.jsonl").write_text(text, "utf-8")


def ingested(folder: Path, out: Path, *allowed: str) -> tuple[int, list[str]]:
    """Number of gallery items, and why the others were quarantined."""
    train, gallery, queries = (out / role for role in ("train", "gallery", "queries"))
    config = IngestionConfig(
        num_workers=1, max_quarantine_share=0.9, download_attempts=1, allowed_sources=allowed
    )
    metrics = ingestion.run(str(folder), train, gallery, queries, config)
    table = open_artifact(gallery, "ingestion").file("quarantine.parquet")
    return int(metrics["gallery/items"]), pd.read_parquet(table)["reason"].tolist()


def test_links_out_of_the_data_set_are_refused_unless_allowed(tmp_path: Path) -> None:
    data, secret = tmp_path / "data", tmp_path / "secret"
    secret.mkdir()
    (secret / "photo.jpg").write_bytes(encoded(picture(2)))
    write_dataset(data, ["images/link.jpg", "images/folder/photo.jpg", "images/inside.jpg"])
    (data / "images" / "link.jpg").symlink_to(secret / "photo.jpg")
    (data / "images" / "folder").symlink_to(secret)
    (data / "images" / "inside.jpg").symlink_to("sound.jpg")
    num_items, reasons = ingested(data, tmp_path / "out")
    assert num_items == 2
    assert [reason.split(" is a link out of the data set")[0] for reason in reasons] == [
        "photo images/link.jpg", "photo images/folder/photo.jpg",
    ]  # fmt: skip
    (tmp_path / "elsewhere").symlink_to(data)
    assert ingested(tmp_path / "elsewhere", tmp_path / "again", str(secret)) == (4, [])


def test_a_list_that_is_a_link_out_of_the_data_set_is_refused_unless_allowed(
    tmp_path: Path,
) -> None:
    data, secret = tmp_path / "data", tmp_path / "secret"
    secret.mkdir()
    write_dataset(data, [])
    (secret / "boxes.jsonl").write_bytes(b"")
    (data / "gallery.jsonl").rename(secret / "gallery.jsonl")
    for name in ("gallery.jsonl", "boxes.jsonl"):
        (data / name).symlink_to(secret / name)
        refused = f"list {name} is a link out of the data set"
        with pytest.raises(DatasetError, match=refused):
            ingested(data, tmp_path / "out")
        with pytest.raises(DatasetError, match=refused):
            cut_sample(data, tmp_path / "sample", 1)
        if name == "gallery.jsonl":
            (data / name).unlink()
            (data / name).symlink_to("queries.jsonl")  # a link inside of the data set
    (data / "gallery.jsonl").unlink()
    (data / "gallery.jsonl").symlink_to(secret / "gallery.jsonl")
    assert ingested(data, tmp_path / "again", str(secret)) == (1, [])


def test_addresses_outside_of_the_data_set_are_refused(tmp_path: Path) -> None:
    images = ["s3://other/a.jpg", "http://127.0.0.1:1/a.jpg", "http://169.254.169.254/latest"]
    write_dataset(tmp_path / "data", images)
    num_items, reasons = ingested(tmp_path / "data", tmp_path / "out")
    assert num_items == 1
    assert "s3://other/a.jpg is outside the data set" in reasons[0]
    assert all(NOT_PUBLIC in reason for reason in reasons[1:])


@pytest.mark.parametrize(("listed", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_name_is_found_in_either_form_of_unicode(
    tmp_path: Path, listed: str, stored: str
) -> None:
    names = {"NFC": "caf\u00e9", "NFD": "cafe\u0301"}
    write_dataset(tmp_path / "data", [f"images/{names[listed]}.jpg"])
    (tmp_path / "data" / "images" / f"{names[stored]}.jpg").write_bytes(encoded(picture(3)))
    assert ingested(tmp_path / "data", tmp_path / "out") == (2, [])
