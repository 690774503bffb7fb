"""Photos behind URLs, from a server of this machine that misbehaves as photo hosts do."""

import json
import subprocess
import sys
import textwrap
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pytest

from product1m.artifacts.folder import open_artifact
from product1m.config import IngestionConfig
from product1m.data import downloads
from product1m.data.allowed_sources import AllowedSources
from product1m.data.downloads import Downloads
from product1m.data.items import ItemTable
from product1m.errors import PhotoError
from product1m.steps import ingestion
from product1m.storage.opening import open_store
from tests.support.worlds.photo_files import encoded, picture

ROLES = ("train", "gallery", "queries")
CONFIG = IngestionConfig(
    download_attempts=3, download_timeout_s=0.5, num_workers=2, allowed_sources=("127.0.0.1",)
)
PHOTO = encoded(picture(7))
MAX_BYTES = 100_000


class PhotoHost:
    """Answers by the first word of the path; counts what it is asked for."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.port = 0
        self.held = threading.Event()
        """Set once a `hold` was asked for."""

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    host: PhotoHost

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        path = self.path.lstrip("/")
        self.host.asked[path] += 1
        kind, _, detail = path.partition("/")
        first = self.host.asked[path] == 1
        if kind == "status":
            self._answer(int(detail.split("/")[0]), b"no")
        elif kind == "recovers" and first:
            self._answer(503, b"busy", {"Retry-After": "0"})
        elif kind == "loop":
            self._answer(302, b"", {"Location": f"/{path}"})
        elif kind == "moved":
            self._answer(301, b"", {"Location": "/photo/moved"})
        elif kind == "page":
            self._answer(200, b"<html>", {"Content-Type": "text/html; charset=utf-8"})
        elif kind == "truncated" and (first or detail == "always"):
            self._answer(200, PHOTO[:100], {"Content-Length": str(len(PHOTO))})
            self.close_connection = True
        elif kind == "silent":
            time.sleep(1)
        elif kind == "large":
            self._answer(200, bytes(MAX_BYTES + 1))
        elif kind == "endless":
            self._endless()
        elif kind in ("slow-header", "slow-chunk"):
            self._dribble(kind)
        elif kind == "raw":
            self.wfile.write(RAW[detail].encode("latin-1"))
            self.close_connection = True
        elif kind == "hold":
            self.host.held.set()
            time.sleep(30)
        else:
            own = encoded(picture(zlib.crc32(path.encode()))) if kind == "own" else PHOTO
            self._answer(200, own, {"Content-Type": "image/jpeg"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _endless(self) -> None:
        """No length stated, a byte now and then."""
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        for _ in range(60):
            self.wfile.write(b"x")
            self.wfile.flush()
            time.sleep(0.05)

    def _dribble(self, kind: str) -> None:
        """A header or a chunk's size that never ends, a byte at a time: no read waits for long."""
        start = "HTTP/1.1 200 OK\r\n" + (
            "X: " if kind == "slow-header" else "Transfer-Encoding: chunked\r\n\r\n"
        )
        self.wfile.write(start.encode())
        self.close_connection = True
        for _ in range(200):
            self.wfile.write(b"0")
            self.wfile.flush()
            time.sleep(0.02)


RAW = {
    "location": "HTTP/1.1 302 Found\r\nLocation: http://[bad\r\nContent-Length: 0\r\n\r\n",
    "no-scheme": "HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n",
    "long-host": f"HTTP/1.1 302 Found\r\nLocation: http://{'a' * 70}.com/\r\n\r\n",
    "length": f"HTTP/1.1 200 OK\r\nContent-Length: {'9' * 5000}\r\n\r\nx",
    "lengths": "HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nx",
    "negative": "HTTP/1.1 200 OK\r\nContent-Length: -7\r\n\r\n",
    "retry": "HTTP/1.1 503 Busy\r\nRetry-After: tomorrow\r\nContent-Length: 0\r\n\r\n",
    "gzip": "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope",
    "noise": "\xff\xfe nothing of HTTP\r\n\r\n",
    "status": "HTTP/1.1 abc OK\r\n\r\n",
    "chunk": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no error here."""


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[PhotoHost]:
    monkeypatch.setattr(downloads, "BACKOFF_S", 0.01)
    host = PhotoHost()
    with Server(("127.0.0.1", 0), type("Bound", (Handler,), {"host": host})) as server:
        host.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield host
        server.shutdown()


def new_downloads(folder: Path) -> Downloads:
    return Downloads(
        open_store(str(folder)),
        AllowedSources(CONFIG.allowed_sources),
        attempts=CONFIG.download_attempts,
        timeout_s=CONFIG.download_timeout_s,
        num_connections=CONFIG.num_workers,
    )


@pytest.mark.parametrize("path", ["photo/1", "moved/1", "recovers/1", "truncated/once"])
def test_a_photo_is_downloaded_despite_moves_and_interruptions(
    host: PhotoHost, tmp_path: Path, path: str
) -> None:
    assert new_downloads(tmp_path).read([host.url(path)], MAX_BYTES) == PHOTO


@pytest.mark.parametrize(
    ("path", "reason", "asked"),
    [
        ("status/403", "HTTP 403 Forbidden", 1),
        ("status/404", "HTTP 404 Not Found", 1),
        ("status/500", "HTTP 500 Internal Server Error", 3),
        ("loop/1", "more than 5 redirects", 6),
        ("page/login", "expected a photo, got text/html", 1),
        ("large/1", "more than 100000 bytes", 1),
        ("truncated/always", "connection lost in 3 tries", 3),
        ("silent/1", "timed out in 3 tries", 3),
        ("endless/1", "incomplete after 0.5 s in 3 tries", 3),
    ],
)
def test_a_failed_download_is_explained_and_the_other_url_is_used(
    host: PhotoHost, tmp_path: Path, path: str, reason: str, asked: int
) -> None:
    bad = host.url(path)
    with pytest.raises(PhotoError) as failed:
        new_downloads(tmp_path).read([bad], MAX_BYTES)
    assert str(failed.value) == f"{reason}: {bad}"
    assert host.asked[path] == asked
    assert new_downloads(tmp_path).read([bad, host.url("photo/b")], MAX_BYTES) == PHOTO


@pytest.mark.parametrize("kind", ["slow-header", "slow-chunk"])
def test_a_request_ends_at_its_deadline_however_slowly_the_bytes_come(
    host: PhotoHost, tmp_path: Path, kind: str
) -> None:
    with pytest.raises(PhotoError, match=r"(timed out|incomplete after 0\.5 s) in 3 tries"):
        new_downloads(tmp_path).read([host.url(kind)], MAX_BYTES)


@pytest.mark.parametrize(
    "url",
    [
        "http://[bad/x.jpg",
        f"http://{'a' * 70}.example/x.jpg",
        "http://a..b/x.jpg",
        "http://host:99999999/x.jpg",
        "http://host:port/x.jpg",
        "http://\u2100.example/x.jpg",
        "http:///x.jpg",
        "http://user:pass word@/\x01",
        *(f"raw/{kind}" for kind in RAW),
    ],
)
def test_a_malformed_address_or_answer_costs_that_photo_alone(
    host: PhotoHost, tmp_path: Path, url: str
) -> None:
    address = url if "://" in url else host.url(url)
    with pytest.raises(PhotoError) as failed:
        new_downloads(tmp_path).read([address], MAX_BYTES)
    assert str(failed.value).endswith(f": {address}")
    assert new_downloads(tmp_path).read([address, host.url("photo/b")], MAX_BYTES) == PHOTO


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/a.jpg",
        "http://[::1]:9/a.jpg",
        "http://[::ffff:169.254.169.254]/a.jpg",
        "//169.254.169.254/a.jpg",
        "http://169.254.169.254@2852039166/a.jpg",
    ],
)
def test_a_redirect_to_a_host_that_is_not_public_is_not_followed(
    host: PhotoHost, tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n"
    monkeypatch.setitem(RAW, "redirect", answer)
    with pytest.raises(PhotoError, match=r"is not a public address; .*ingestion\.allowed_sources"):
        new_downloads(tmp_path).read([host.url("raw/redirect")], MAX_BYTES)
    assert host.asked["raw/redirect"] == 1


def test_the_error_names_the_reason_of_every_url(host: PhotoHost, tmp_path: Path) -> None:
    bad, worse = host.url("status/403"), "http://127.0.0.1:1/b"
    with pytest.raises(PhotoError) as failed:
        new_downloads(tmp_path).read([bad, worse, "http://"], MAX_BYTES)
    assert str(failed.value) == (
        f"HTTP 403 Forbidden: {bad}; no connection in 3 tries: {worse}; invalid address: http://"
    )


def test_a_fetched_photo_is_not_fetched_again(host: PhotoHost, tmp_path: Path) -> None:
    urls = [host.url("status/403"), host.url("photo/1")]
    for _ in range(3):
        assert new_downloads(tmp_path).read(urls, MAX_BYTES) == PHOTO
    assert host.asked == {"status/403": 1, "photo/1": 1}


def test_a_host_that_never_answers_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "BACKOFF_S", 0.0)
    fetching = new_downloads(tmp_path)
    for _ in range(downloads.UNREACHABLE):
        with pytest.raises(PhotoError, match="no connection in 3 tries"):
            fetching.read(["http://127.0.0.1:1/a"], MAX_BYTES)
    with pytest.raises(PhotoError, match=r"127\.0\.0\.1:1 failed 32 times in a row, skipped"):
        fetching.read(["http://127.0.0.1:1/a"], MAX_BYTES)


def write_lists(folder: Path, urls: dict[str, list[str]]) -> None:
    """Product1M lists whose photos lie nowhere but behind two URLs."""
    folder.mkdir()
    names = {"train": ["train"], "gallery": ["gallery"], "queries": ["dev", "test"]}
    for role, files in names.items():
        for name in files:
            label = "" if role == "train" else "#####A"
            lines = [
                f"{name}{number}#####{name} {number}#####{pair}{label}\r\n"
                for number, pair in enumerate(urls[name])
            ]
            (folder / f"product1m_{name}_ossurl_v2.txt").write_text("".join(lines))


def test_lists_of_urls_become_items_and_what_cannot_be_had_is_set_aside(
    host: PhotoHost, tmp_path: Path
) -> None:
    good = [f"{host.url(f'photo/{n}')}#####{host.url('status/403')}" for n in range(3)]
    second = f"{host.url('status/404')}#####{host.url('photo/b')}"
    neither = f"{host.url('status/404')}#####{host.url('status/403')}"
    write_lists(
        tmp_path / "data",
        {
            "train": [f"{host.url('own/1')}#####", *good[1:], second, neither],
            "gallery": good,
            "dev": good,
            "test": good,
        },
    )
    train, gallery, queries = (tmp_path / role for role in ROLES)
    config = CONFIG.model_copy(update={"max_quarantine_share": 0.3})
    metrics = ingestion.run(str(tmp_path / "data"), train, gallery, queries, config)
    assert (metrics["train/items"], metrics["train/quarantined"]) == (4, 1)
    artifact = open_artifact(train, "ingestion", "train")
    assert ItemTable(artifact).encoded(3) == PHOTO
    reasons = pd.read_parquet(artifact.file("quarantine.parquet"))["reason"].tolist()
    assert reasons == [
        f"HTTP 404 Not Found: {host.url('status/404')}; "
        f"HTTP 403 Forbidden: {host.url('status/403')}"
    ]


def test_a_killed_ingestion_goes_on_where_it_was(host: PhotoHost, tmp_path: Path) -> None:
    rows = [
        {"id": str(number), "caption": f"title {number}", "labels": ["A"], "image": ""}
        for number in range(12)
    ]
    data = tmp_path / "data"
    data.mkdir()
    for role in ROLES:
        for number, row in enumerate(rows):
            held = role == "train" and number == 9
            row["image"] = host.url("hold/9" if held else f"own/{role}/{number}")
        (data / f"{role}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train, gallery, queries = (tmp_path / role for role in ROLES)
    script = f"""
        from pathlib import Path
        from product1m.config import IngestionConfig
        from product1m.steps import ingestion
        outputs = (Path({str(tmp_path)!r}, role) for role in {ROLES!r})
        config = IngestionConfig(num_workers=1, allowed_sources=("127.0.0.1",))
        ingestion.run({str(data)!r}, *outputs, config)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)])
    assert host.held.wait(60), "it never came to the tenth photo"
    process.kill()
    process.wait()
    assert not train.exists()
    fetched = {path for path in host.asked if path.startswith("own/")}
    assert {f"own/train/{number}" for number in range(9)} <= fetched
    lists = data / "train.jsonl"
    lists.write_text(lists.read_text().replace("hold/9", "own/train/9"))
    metrics = ingestion.run(str(data), train, gallery, queries, CONFIG)
    assert metrics["train/items"] == 12
    assert {path: host.asked[path] for path in fetched} == dict.fromkeys(fetched, 1)
