"""Ingestion of any content of a list: it ends, keeps what is valid, names what is not."""

import json
import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from product1m.artifacts.folder import open_artifact
from product1m.config import IngestionConfig
from product1m.data import downloads
from product1m.data.items import read_items
from product1m.steps import ingestion
from tests.support.worlds.photo_files import encoded, picture

ROLES = ("train", "gallery", "queries")
CONFIG = IngestionConfig(
    max_quarantine_share=1.0,
    num_workers=2,
    download_attempts=1,
    download_timeout_s=0.3,
    max_photo_side_px=100,
)
ATTEMPTS = int(os.environ.get("FAULT_ATTEMPTS", "300"))
"""Data sets of the long campaign."""

deep = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
ADDRESSES = [
    "http://[bad/x.jpg",
    f"http://{'a' * 70}/x.jpg",
    "http://",
    "https://:0/",
    "http://127.0.0.1:1/x",
    "http://127.0.0.1:99999/x",
    "s3://",
    "s3:///key",
    "s3://B/k",
    "s3://bucket",
    "file:///etc/passwd",
    "images/../../x",
    "images",
    "images/" + "n" * 300,
    "images/" + "x/" * 3000 + "y",
    "images/0.jpg\0",
    "data:image/png;base64,AAAA",
    "\\\\host\\share",
]
addresses = st.one_of(
    st.sampled_from(ADDRESSES),
    st.builds("http://{}/{}".format, st.text(max_size=8), st.text(max_size=4)),
    st.builds("http://127.0.0.1:{port}/{}".format, st.integers(0, 30), port=st.just("{port}")),
    st.builds("images/{}".format, st.text(max_size=8)),
)
values: dict[str, st.SearchStrategy[Any]] = {
    "id": deep | st.text(max_size=120),
    "caption": deep | st.text(min_size=4000, max_size=5000),
    "image": deep | addresses,
    "labels": deep | st.lists(st.text(max_size=4), max_size=3),
    "split": deep,
    "boxes": deep
    | st.lists(st.lists(st.integers(-9, 60) | st.floats(), min_size=3, max_size=5), max_size=3)
    | st.just([[0, 0, 10**400, 5]]),
}
spoiled = st.sampled_from(sorted(values)).flatmap(
    lambda name: values[name].map(lambda value: {name: value})
)
raw_lines = st.one_of(
    st.binary(min_size=1, max_size=40).map(lambda raw: raw.replace(b"\n", b"x")),
    st.sampled_from(
        [
            b"\xef\xbb\xbf{}",
            b'{"id": "M\xfcller"}',
            b"[" * 5000,
            b'{"id":' * 500,
            b'{"id": 1' + b"0" * 5000 + b"}",
            b'{"id": "a", "boxes": [[0, 0, 1' + b"0" * 400 + b", 1]]}",
            b"1#####2#####3",
            b"x" * ((1 << 20) + 5),
        ]
    ),
)
lines = st.lists(spoiled | raw_lines, min_size=1, max_size=4)

ANSWERS = [
    b"HTTP/1.1 302 Found\r\nLocation: http://[bad\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: s3://x\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nx",
    b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nx",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nno",
    b"HTTP/1.1 999999999999 ?\r\n\r\n",
    b"\xff\xfe\0\r\n",
    b"",
]


class Misbehaving(BaseHTTPRequestHandler):
    """Answers by the number in the path."""

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        number = sum(map(ord, self.path)) % len(ANSWERS)
        self.wfile.write(ANSWERS[number])
        self.close_connection = True


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Misbehaving)
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def good(role: str, number: int) -> dict[str, Any]:
    row: dict[str, Any] = {"id": f"good-{role}-{number}", "caption": f"{role} {number}"}
    row |= {"image": f"images/{number}.jpg"}
    if role != "train":
        row["labels"] = ["A"]
    if role == "queries":
        row["split"] = ("dev", "test")[number % 2]
    return row


def encode(line: dict[str, Any] | bytes, role: str, number: int, port: int) -> bytes:
    """A spoiled row is a good one with another value; it may be good by chance."""
    if isinstance(line, bytes):
        return line
    row = {**good(role, number), "id": f"spoiled-{role}-{number}", **line}
    return json.dumps(row).replace("{port}", str(port)).encode()


def check(folder: Path, per_role: dict[str, list[dict[str, Any] | bytes]], port: int) -> int:
    """Ingest good lines around others; the number of lines refused."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number in range(2):
        (folder / f"images/{number}.jpg").write_bytes(encoded(picture(number)))
    numbers: dict[str, list[int]] = {}
    for role in ROLES:
        written = [json.dumps(good(role, 0)).encode()]
        written += [encode(line, role, k % 2, port) for k, line in enumerate(per_role[role])]
        written += [json.dumps(good(role, 1)).encode()]
        content = b"\n".join(written)
        (folder / f"{role}.jsonl").write_bytes(content)
        stand = enumerate(content.split(b"\n"), start=1)
        numbers[role] = [number for number, line in stand if line.strip()]
    outputs = [folder / "out" / role for role in ROLES]
    train, gallery, queries = outputs
    ingestion.run(str(folder), train, gallery, queries, CONFIG)
    refused = 0
    for role, output in zip(ROLES, outputs, strict=True):
        artifact = open_artifact(output, "ingestion", role)
        ids = read_items(artifact)["id"].tolist()
        assert {good(role, 0)["id"], good(role, 1)["id"]} <= set(ids)
        quarantine = pd.read_parquet(artifact.file("quarantine.parquet"))
        assert quarantine["reason"].str.len().min() > 0 or quarantine.empty
        assert len(ids) + len(quarantine) == len(numbers[role]), "a line is lost"
        assert set(quarantine["line"]) <= set(numbers[role])
        assert set(quarantine["list"]) <= {f"{role}.jsonl"}
        refused += len(quarantine)
    return refused


def test_an_id_whose_decomposed_form_is_too_long_for_a_file_costs_that_item(
    tmp_path: Path,
) -> None:
    (tmp_path / "images").mkdir()
    names = {"train": "ab", "gallery": "c", "dev": "d", "test": "e"}
    for seed, item in enumerate("abcde"):
        (tmp_path / f"images/{item}.jpg").write_bytes(encoded(picture(seed)))
    for name, ids in names.items():
        label = "" if name == "train" else "#####A"
        lines = [f"{item}#####title {item}##########{label}\n" for item in (*ids, "각" * 32)]
        (tmp_path / f"product1m_{name}_ossurl_v2.txt").write_text("".join(lines), "utf-8")
    train, gallery, queries = (tmp_path / "out" / role for role in ROLES)
    metrics = ingestion.run(str(tmp_path), train, gallery, queries, CONFIG)
    assert [metrics[f"{role}/items"] for role in ROLES] == [2, 1, 2]
    assert [metrics[f"{role}/quarantined"] for role in ROLES] == [1, 1, 2]


def test_no_address_stops_ingestion(tmp_path: Path, port: int) -> None:
    rows: list[dict[str, Any] | bytes] = [{"image": address} for address in ADDRESSES]
    for number, row in enumerate(rows):
        assert isinstance(row, dict)
        row["id"] = f"address {number}"
    assert check(tmp_path, dict.fromkeys(ROLES, rows), port) == 3 * len(ADDRESSES)


every_role = st.fixed_dictionaries(dict.fromkeys(ROLES, lines))
CHECKS = tuple(HealthCheck)


@settings(max_examples=12, deadline=None, suppress_health_check=CHECKS)
@given(every_role)
def test_ingestion_ends_keeps_what_is_valid_and_names_every_other_line(
    tmp_path_factory: pytest.TempPathFactory, port: int, per_role: Any
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(downloads, "BACKOFF_S", 0.0)
        check(tmp_path_factory.mktemp("lists"), per_role, port)


@pytest.mark.slow
def test_a_campaign_of_bad_lists_stops_no_ingestion(
    tmp_path_factory: pytest.TempPathFactory, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "BACKOFF_S", 0.0)
    tried, refused, stopped = 0, 0, []

    @settings(max_examples=ATTEMPTS, database=None, deadline=None, suppress_health_check=CHECKS)
    @given(every_role)
    def attempt(per_role: Any) -> None:
        nonlocal tried, refused
        tried += 1
        try:
            refused += check(tmp_path_factory.mktemp("lists"), per_role, port)
        except Exception as error:
            stopped.append(f"{type(error).__name__}: {error}"[:200])

    attempt()
    figures = f"{tried} data sets, {refused} lines quarantined, {len(stopped)} stopped"
    print(f"bad lists: {figures}")  # noqa: T201 — the campaign's result
    assert not stopped, stopped[:3]
