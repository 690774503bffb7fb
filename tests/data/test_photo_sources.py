"""Data sets, photos and backgrounds that lie on S3, from the lists to the items."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.graph.data import check_dataset, data_parameters, with_state
from product1m.artifacts.folder import open_artifact
from product1m.config import IngestionConfig
from product1m.data.items import ItemTable
from product1m.errors import DatasetError, StorageError
from product1m.steps import ingestion
from product1m.synthesis.backgrounds import find_backgrounds, read_background
from tests.support.servers.s3_server import S3Server
from tests.support.worlds.photo_files import encoded, picture
from tests.support.worlds.small_datasets import small_dataset

ROLES = ("train", "gallery", "queries")
INGESTION = IngestionConfig(num_workers=2)


def outputs(folder: Path) -> tuple[Path, Path, Path]:
    """Where ingestion writes its three artifacts."""
    return folder / "train", folder / "gallery", folder / "queries"


def test_a_dataset_on_s3_has_the_parameters_of_the_same_one_here(
    s3: S3Server, tmp_path: Path
) -> None:
    data = small_dataset(tmp_path / "data")
    (data / "backgrounds").mkdir()
    (data / "backgrounds" / "room.jpg").write_bytes(b"room")
    address = s3.copy(data, f"{tmp_path.name}/data")
    here, there = (with_state(data_parameters(uri)) for uri in (str(data), address))
    assert there["dataset_uri"] == address
    assert there["backgrounds_uri"] == f"{address}/backgrounds"
    assert there["dataset_digest"] == here["dataset_digest"]
    assert there["backgrounds_digest"] == here["backgrounds_digest"]
    with pytest.raises(
        DatasetError, match=r"s3://.*/images: expected train\.jsonl, gallery\.jsonl"
    ):
        check_dataset(f"{address}/images")
    with pytest.raises(DatasetError, match="expected a data set with lists and photos"):
        check_dataset(f"{address}/nowhere")


def test_product1m_lists_on_s3_find_their_photos_by_id_and_by_key(
    s3: S3Server, tmp_path: Path
) -> None:
    data = small_dataset(tmp_path / "data", num_items=2)
    photo = encoded(picture(1))
    (data / "images" / "x.png").write_bytes(encoded(picture(1), "PNG"))
    (data / "images" / "w.jpg").write_bytes(encoded(picture(2)))
    for name, items in {"train": "xw", "gallery": "y", "dev": "z", "test": "x"}.items():
        label = "" if name == "train" else "#####A"
        urls = "http://127.0.0.1:1/a#####http://127.0.0.1:1/b"
        lines = [f"{item}#####title {item}#####{urls}{label}\r\n" for item in items]
        (data / f"product1m_{name}_ossurl_v2.txt").write_text("".join(lines))
    for path in data.glob("*.jsonl"):
        path.unlink()
    (data / "images" / "y.jpg").write_bytes(photo)
    (data / "images" / "z.JPG").write_bytes(photo)
    address = s3.copy(data, f"{tmp_path.name}/lists")
    metrics = ingestion.run(address, *outputs(tmp_path), INGESTION)
    assert [metrics[f"{role}/items"] for role in ROLES] == [2, 1, 2]

    keyed = tmp_path / "keyed"
    keyed.mkdir()
    for role in ROLES:
        rows = [
            {"id": f"{role}{name}", "caption": f"{role} {name}", "labels": ["A"]}
            | {"image": f"{address}/images/{name}.jpg"}
            for name in "yw"
        ]
        (keyed / f"{role}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    allowed = INGESTION.model_copy(update={"allowed_sources": (address,)})
    metrics = ingestion.run(str(keyed), *outputs(tmp_path / "k"), allowed)
    assert [metrics[f"{role}/items"] for role in ROLES] == [2, 2, 2]
    table = ItemTable(open_artifact(tmp_path / "k" / "train", "ingestion"))
    assert table.encoded(0) == photo


def test_background_photos_on_s3_are_those_of_the_folder(s3: S3Server, tmp_path: Path) -> None:
    rooms = tmp_path / "rooms"
    (rooms / "deep").mkdir(parents=True)
    for number, name in enumerate(("b.jpg", "a.png", "deep/c.jpg")):
        (rooms / name).write_bytes(encoded(picture(number, (60, 60))))
    (rooms / "notes.txt").write_text("no photo")
    address = s3.copy(rooms, f"{tmp_path.name}/rooms")
    here, there = find_backgrounds(str(rooms)), find_backgrounds(address)
    assert [place.removeprefix(address) for place in there] == [
        place.removeprefix(str(rooms)) for place in here
    ]
    photos = [
        read_background(places, 50, 50, np.random.default_rng(0))[0] for places in (here, there)
    ]
    np.testing.assert_array_equal(photos[0], photos[1])
    with pytest.raises(DatasetError, match=f"{address}/none: expected background photos"):
        find_backgrounds(f"{address}/none")


def test_a_link_out_of_the_folder_of_backgrounds_is_refused(tmp_path: Path) -> None:
    (tmp_path / "chosen").mkdir()
    (tmp_path / "elsewhere.jpg").write_bytes(b"somebody else's photo")
    (tmp_path / "rooms").symlink_to("chosen")
    (tmp_path / "chosen" / "kept.jpg").write_bytes(b"a photo")
    assert find_backgrounds(str(tmp_path / "rooms")) == [str(tmp_path / "rooms" / "kept.jpg")]
    (tmp_path / "chosen" / "link.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    with pytest.raises(
        DatasetError, match=r"link\.jpg: expected .* got a link to .*elsewhere\.jpg"
    ):
        find_backgrounds(str(tmp_path / "rooms"))


class Forbidding(BaseHTTPRequestHandler):
    """An S3 endpoint that denies one key, has no other, or is broken."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        broken = "broken" in self.path
        status, code = (403, "AccessDenied") if "secret" in self.path else (404, "NoSuchKey")
        status, code = (500, "InternalError") if broken else (status, code)
        body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_a_key_that_s3_denies_costs_that_item_and_a_broken_store_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Forbidding) as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_address[1]}",
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_MAX_ATTEMPTS": "1",
        }.items():
            monkeypatch.setenv(name, value)
        data = small_dataset(tmp_path / "data")
        lines = (data / "train.jsonl").read_text()
        bad = {"a": "s3://bucket/secret.jpg", "b": "s3://bucket/absent.jpg", "c": "s3://"}
        rows = [{"id": name, "caption": name, "image": image} for name, image in bad.items()]
        (data / "train.jsonl").write_text(lines + "".join(json.dumps(row) + "\n" for row in rows))
        config = IngestionConfig(max_quarantine_share=1, allowed_sources=("s3://bucket",))
        metrics = ingestion.run(str(data), *outputs(tmp_path), config)
        assert (metrics["train/items"], metrics["train/quarantined"]) == (3, 3)
        table = pq.read_table(tmp_path / "train" / "quarantine.parquet").to_pylist()
        assert [(row["line"], row["id"]) for row in table] == [(4, "a"), (5, "b"), (6, "c")]
        assert "access denied" in table[0]["reason"]
        assert "missing" in table[1]["reason"]
        row = {"id": "d", "caption": "d", "image": "s3://bucket/broken.jpg"}
        (data / "train.jsonl").write_text(lines + json.dumps(row) + "\n")
        with pytest.raises(StorageError, match=r"s3://bucket/broken\.jpg"):
            ingestion.run(str(data), *outputs(tmp_path / "again"), config)
        server.shutdown()
