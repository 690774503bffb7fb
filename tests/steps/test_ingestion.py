"""Ingestion on folders of real photo files, good and bad."""

import json
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from product1m.artifacts.folder import Artifact, open_artifact
from product1m.config import IngestionConfig
from product1m.data.items import ItemTable
from product1m.errors import DatasetError, StorageError
from product1m.steps import ingestion
from tests.support.worlds.photo_files import encoded, picture

ROLES = ("train", "gallery", "queries")
LENIENT = IngestionConfig(max_quarantine_share=1.0, num_workers=2)


class Folder:
    """A data set folder under construction."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rows: dict[str, list[dict[str, Any]]] = {role: [] for role in ROLES}
        (root / "images").mkdir(parents=True)

    def add(self, role: str, id: str, photo: bytes | None = None, **values: Any) -> None:
        """An item; its photo and caption are its own unless given."""
        image = f"images/{role}-{id}.jpg"
        own = encoded(picture(zlib.crc32(f"{role} {id}".encode())))
        (self.root / image).write_bytes(own if photo is None else photo)
        row: dict[str, Any] = {"id": id, "caption": f"{role} {id}", "image": image}
        if role != "train":
            row["labels"] = ["A"]
        self.rows[role].append({**row, **values})

    def write(self) -> None:
        for role, rows in self.rows.items():
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (self.root / f"{role}.jsonl").write_text(lines, "utf-8")

    def ingest(
        self, config: IngestionConfig = LENIENT, name: str = "out"
    ) -> tuple[dict[str, float], dict[str, Artifact]]:
        self.write()
        return ingest(self.root, config, name)


def ingest(
    root: Path, config: IngestionConfig, name: str = "out"
) -> tuple[dict[str, float], dict[str, Artifact]]:
    outputs = {role: root.parent / name / role for role in ROLES}
    train, gallery, queries = outputs.values()
    metrics = ingestion.run(str(root), train, gallery, queries, config)
    return metrics, {role: open_artifact(path, "ingestion", role) for role, path in outputs.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Three train, two gallery items, two queries."""
    dataset = Folder(tmp_path / "dataset")
    for number in (1, 2, 3):
        dataset.add("train", f"t{number}")
    dataset.add("gallery", "g1", labels=["A"])
    dataset.add("gallery", "g2", labels=["B"])
    dataset.add("queries", "q1", labels=["A", "B"], split="dev")
    dataset.add("queries", "q2", labels=["B", "B"], split="test")
    return dataset


def quarantine_of(artifact: Artifact) -> dict[str, str]:
    table = pd.read_parquet(artifact.file("quarantine.parquet"))
    return {
        f"{row['list']}:{row['line']}:{row['id']}": row["reason"] for _, row in table.iterrows()
    }


def test_items_come_out_in_the_order_of_their_list_with_photo_caption_and_labels(
    folder: Folder,
) -> None:
    metrics, artifacts = folder.ingest()
    queries = ItemTable(artifacts["queries"])
    assert list(queries.rows["id"]) == ["q1", "q2"]
    assert list(queries.rows["caption"]) == ["queries q1", "queries q2"]
    assert list(queries.rows["labels"]) == [["A", "B"], ["B", "B"]]
    assert list(queries.rows["split"]) == ["dev", "test"]
    for position, row in enumerate(folder.rows["queries"]):
        assert queries.encoded(position) == (folder.root / row["image"]).read_bytes()
    assert list(ItemTable(artifacts["train"]).rows["id"]) == ["t1", "t2", "t3"]
    assert metrics["train/items"] == 3
    assert metrics["queries/labels_per_query"] == 2
    for role, artifact in artifacts.items():
        for name, value in artifact.manifest.metrics.items():
            assert metrics[f"{role}/{name}"] == value


def test_product1m_lists_find_their_photos_by_id(tmp_path: Path) -> None:
    root = tmp_path / "dataset"
    (root / "images").mkdir(parents=True)
    rows = {"train": ["1", "2"], "gallery": ["3"], "dev": ["4"], "test": ["5"]}
    formats = {
        "1": ("jpg", "JPEG"),
        "2": ("png", "PNG"),
        "3": ("JPG", "JPEG"),
        "4": ("webp", "WEBP"),
    }
    for name, ids in rows.items():
        label = "" if name == "train" else "#####B x#;#B y" if name == "dev" else "#####B x"
        urls = "http://a.example/a.gif#####http://b.example/b.jpg"
        lines = [f"{number}#####title {number}#####{urls}{label}\r\n" for number in ids]
        (root / f"product1m_{name}_ossurl_v2.txt").write_bytes("".join(lines).encode())
        for number in ids:
            extension, kind = formats.get(number, ("jpeg", "JPEG"))
            photo = encoded(picture(int(number)), kind)
            (root / "images" / f"{number}.{extension}").write_bytes(photo)
    metrics, artifacts = ingest(root, IngestionConfig())
    queries = ItemTable(artifacts["queries"])
    assert list(queries.rows["id"]) == ["4", "5"]
    assert list(queries.rows["split"]) == ["dev", "test"]
    assert list(queries.rows["labels"]) == [["B x", "B y"], ["B x"]]
    train = ItemTable(artifacts["train"])
    assert photo_is_near(train.photo(0), 1)
    assert photo_is_near(train.photo(1), 2)
    assert not photo_is_near(train.photo(1), 1)
    assert metrics["queries/classes_not_in_gallery"] == 1
    assert artifacts["queries"].manifest.details["classes_not_in_gallery"] == ["B y"]


def photo_is_near(photo: np.ndarray, seed: int) -> bool:
    difference = photo.astype(float) - np.asarray(picture(seed), float)
    return bool(np.abs(difference).mean() < 4)


def oversized_header(width: int, height: int) -> bytes:
    """The first bytes of a PNG that claims a size; there are no pixels behind it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9))


GOOD_JPEG = encoded(picture(0, (200, 200)), quality=95)


@pytest.mark.parametrize(
    ("photo", "reason"),
    [
        (b"", "is empty (0 bytes)"),
        (b"<html>403 Forbidden</html>" * 9, "not a photo that can be decoded"),
        (
            GOOD_JPEG[: len(GOOD_JPEG) // 2],
            "not a photo that can be decoded (image file is truncated",
        ),
        (encoded(picture(0), "PNG")[:-40], "not a photo that can be decoded"),
        (
            oversized_header(10_000, 10_000),
            "10000 x 10000 px: more than 50000000 pixels, not decoded",
        ),
        (
            oversized_header(60_000, 60_000),
            "60000 x 60000 px: more than 50000000 pixels, not decoded",
        ),
        (GOOD_JPEG + b"\0" * 70_000, "more than 65536"),
        (encoded(picture(0, (15, 400))), "15 x 400 px: the shorter side is below 16"),
        (encoded(picture(0, (16, 4000))), "4 x 1000 px after downscaling: too narrow"),
    ],
)
def test_a_bad_photo_is_quarantined_with_its_place_and_the_others_stay(
    folder: Folder, photo: bytes, reason: str
) -> None:
    folder.add("train", "bad", photo)
    folder.add("train", "last")
    config = IngestionConfig(
        max_quarantine_share=0.5,
        max_photo_bytes=65536,
        num_workers=2,
        allowed_sources=("127.0.0.1",),
    )
    metrics, artifacts = folder.ingest(config)
    (place,) = quarantine_of(artifacts["train"])
    assert place == "train.jsonl:4:bad"
    assert reason in quarantine_of(artifacts["train"])[place]
    assert list(ItemTable(artifacts["train"]).rows["id"]) == ["t1", "t2", "t3", "last"]
    assert metrics["train/quarantined"] == 1
    assert metrics["train/quarantine_share"] == 0.2


def test_missing_photos_addresses_and_folders_are_set_aside(folder: Folder) -> None:
    folder.add("train", "a", image="images/nowhere.jpg")
    folder.add("train", "b", image="http://127.0.0.1:1/b.jpg")
    folder.add("train", "c", image="images")
    _, artifacts = folder.ingest(
        LENIENT.model_copy(update={"download_attempts": 1, "allowed_sources": ("127.0.0.1",)})
    )
    assert list(quarantine_of(artifacts["train"]).values()) == [
        "photo images/nowhere.jpg: missing",
        "no connection in 1 tries: http://127.0.0.1:1/b.jpg",
        "photo images: Is a directory",
    ]


def test_every_line_is_an_item_or_in_quarantine(folder: Folder) -> None:
    folder.rows["queries"].append(folder.rows["queries"][0])
    folder.rows["queries"].append({**folder.rows["queries"][0], "id": "../q3"})
    folder.rows["queries"].append({"id": "q5"})
    folder.write()
    path = folder.root / "queries.jsonl"
    path.write_text(path.read_text() + "\n  \nnot json\n", "utf-8")
    metrics, artifacts = ingest(folder.root, LENIENT)
    assert quarantine_of(artifacts["queries"]) == {
        "queries.jsonl:3:q1": "duplicate id, first at queries.jsonl:1",
        "queries.jsonl:4:../q3": "id '../q3' could name a file outside the data set",
        "queries.jsonl:5:q5": "caption: missing",
        "queries.jsonl:8:": "not JSON (Expecting value: line 1 column 1 (char 0))",
    }
    assert metrics["queries/items"] + metrics["queries/quarantined"] == 6
    assert metrics["queries/blank_lines"] == 2


def test_too_many_bad_items_stop_the_step_and_the_first_reasons_are_quoted(folder: Folder) -> None:
    for number in range(20):
        folder.add("train", f"x{number}", b"no photo")
    with pytest.raises(DatasetError) as stopped:
        folder.ingest(IngestionConfig(max_quarantine_share=0.2))
    message = str(stopped.value)
    assert message.startswith("train: 5 of 23 items are quarantined")
    assert "ingestion.max_quarantine_share = 0.2" in message
    assert message.count("train.jsonl:") == 5
    assert "train.jsonl:4: not a photo that can be decoded" in message
    assert not (folder.root.parent / "out").exists() or not any(
        (folder.root.parent / "out").iterdir()
    )


def test_a_list_without_a_usable_item_stops_the_step(folder: Folder) -> None:
    folder.rows["gallery"] = []
    with pytest.raises(DatasetError, match=r"gallery\.jsonl: none of its 0 lines is a usable item"):
        folder.ingest()


def test_an_address_is_not_taken_for_a_folder(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="ftp://host/set: expected a local folder or s3://"):
        ingestion.run("ftp://host/set", tmp_path / "a", tmp_path / "b", tmp_path / "c", LENIENT)


def test_one_group_spans_all_three_lists(folder: Folder) -> None:
    same = encoded(picture(99))
    folder.add("train", "t4", same)
    folder.add("gallery", "g3", same, caption="linked")
    folder.add("queries", "q3", caption="linked", split="test")
    metrics, artifacts = folder.ingest()
    rows = {role: ItemTable(artifacts[role]).rows.set_index("id")["group"] for role in ROLES}
    assert rows["train"]["t4"] == rows["gallery"]["g3"] == rows["queries"]["q3"]
    others = [rows["train"][name] for name in ("t1", "t2", "t3")]
    assert len({*others, rows["train"]["t4"]}) == 4
    assert metrics["train/groups"] == 4
    assert metrics["train/duplicated_items"] == 0


def test_a_corrected_title_of_the_gallery_leaves_the_other_lists_as_they_were(
    folder: Folder,
) -> None:
    folder.add("gallery", "g3", caption="gallery g1")
    before = {role: artifact.digest for role, artifact in folder.ingest()[1].items()}
    folder.rows["gallery"][-1]["caption"] = "corrected"
    after = {role: artifact.digest for role, artifact in folder.ingest(name="after")[1].items()}
    assert [role for role in ROLES if after[role] != before[role]] == ["gallery"]


def test_leaks_are_counted_and_listed(folder: Folder) -> None:
    same = encoded(picture(98))
    folder.add("train", "photo-leak", same)
    folder.add("train", "caption-leak", caption="queries q1")
    folder.add("gallery", "both-leak", same, caption="queries q1")
    folder.add("queries", "q3", same, split="test")
    folder.add("queries", "q4", caption="queries q1", split="test")
    metrics, artifacts = folder.ingest()
    table = pd.read_parquet(artifacts["queries"].file("leakage.parquet"))
    assert [tuple(row) for row in table.to_numpy()] == [
        ("train", "photo-leak", "queries", True, False),
        ("train", "caption-leak", "queries", False, True),
        ("gallery", "both-leak", "queries", True, True),
        ("test", "q4", "dev", False, True),
    ]
    assert metrics["queries/train_photos_in_queries"] == 1
    assert metrics["queries/train_captions_in_queries"] == 1
    assert metrics["queries/gallery_photos_in_queries"] == 1
    assert metrics["queries/test_photos_in_dev"] == 0
    assert metrics["queries/test_captions_in_dev"] == 1


def test_labels_the_gallery_lacks_are_counted(folder: Folder) -> None:
    folder.add("queries", "q3", labels=["A", "nowhere"], split="dev")
    folder.add("queries", "q4", labels=["nowhere", "never"], split="dev")
    metrics, artifacts = folder.ingest()
    assert metrics["queries/classes_not_in_gallery"] == 2
    assert metrics["queries/queries_with_a_label_not_in_gallery"] == 2
    assert metrics["queries/queries_without_a_label_in_gallery"] == 1
    details = artifacts["queries"].manifest.details
    assert details["classes_not_in_gallery"] == ["never", "nowhere"]


def test_data_that_say_they_are_a_sample_mark_every_part(folder: Folder) -> None:
    _, plain = folder.ingest(name="plain")
    (folder.root / "SAMPLE").write_text("A sample.")
    _, marked = folder.ingest(name="marked")
    for role in ROLES:
        assert plain[role].manifest.details["sample_data"] is False
        assert marked[role].manifest.details["sample_data"] is True
        assert plain[role].digest == marked[role].digest


def test_equal_queries_are_never_split_over_dev_and_test(folder: Folder) -> None:
    folder.rows["queries"] = []
    for number in range(12):
        folder.add("queries", f"s{number}", caption=f"shared {number // 3}")
    metrics, artifacts = folder.ingest(IngestionConfig(dev_share=0.5))
    rows = ItemTable(artifacts["queries"]).rows
    assert rows.groupby("caption")["split"].nunique().eq(1).all()
    assert metrics["queries/dev"] == metrics["queries/test"] == 6
    assert metrics["queries/test_captions_in_dev"] == 0


def test_the_result_depends_on_the_data_alone(folder: Folder) -> None:
    for number in range(30):
        folder.add(
            "train",
            f"n{number}",
            encoded(picture(number, (random.Random(number).randint(20, 90), 30))),
        )
    digests = []
    for workers, name in ((1, "first"), (5, "second")):
        _, artifacts = folder.ingest(IngestionConfig(num_workers=workers), name)
        digests.append([artifacts[role].digest for role in ROLES])
    assert digests[0] == digests[1]


def test_shards_stay_below_their_limit_and_tables_span_row_groups(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("product1m.data.items.ROWS_PER_GROUP", 4)
    noise = np.random.default_rng(0)
    for number in range(9):
        pixels = noise.integers(0, 256, (400, 400, 3), np.uint8)
        folder.add("train", f"n{number}", encoded(Image.fromarray(pixels), quality=95))
    _, artifacts = folder.ingest(IngestionConfig(shard_mib=1, num_workers=2))
    train = ItemTable(artifacts["train"])
    shards = artifacts["train"].files("images-*.tar")
    assert len(shards) > 1
    assert all(shard.stat().st_size <= (1 << 20) + 20_480 for shard in shards)
    for position, row in enumerate(folder.rows["train"]):
        assert train.encoded(position) == (folder.root / row["image"]).read_bytes()
    assert train.rows["group"].is_unique


def test_the_content_digest_tells_the_queries_from_what_surrounds_them(folder: Folder) -> None:
    contents = []
    for name in ("before", "more-train", "more-queries"):
        if name == "more-train":
            folder.add("train", "t4", caption="queries q1")
        if name == "more-queries":
            folder.add("queries", "q3", split="test")
        _, artifacts = folder.ingest(name=name)
        contents.append(artifacts["queries"].manifest.details["content"])
    assert contents[0] == contents[1] != contents[2]


def test_photos_that_leave_nothing_for_a_later_step_stop_ingestion(folder: Folder) -> None:
    same = encoded(picture(97))
    for number in (1, 2, 3):
        (folder.root / f"images/train-t{number}.jpg").write_bytes(same)
    with pytest.raises(
        DatasetError, match=r"train: 3 items of 1 product .*need different products"
    ):
        folder.ingest()
    folder.add("train", "another")
    (folder.root / "images/queries-q1.jpg").write_bytes(b"no photo")  # the only dev query
    with pytest.raises(DatasetError, match=r"no dev query, .* all 1 have the split 'test'"):
        folder.ingest()
    (folder.root / "images/queries-q1.jpg").write_bytes(encoded(picture(96)))
    folder.rows["queries"][1]["labels"] = ["b"]
    with pytest.raises(
        DatasetError, match=r"1 test queries .*'b' of query q2 .*the nearest is 'B'"
    ):
        folder.ingest()
