"""True boxes of queries on their way from a data set into features."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from product1m.artifacts.folder import open_artifact
from product1m.config import IngestionConfig
from product1m.data.boxes import BOXES, BoxError, BoxTable, check_boxes, write_boxes
from product1m.data.known_boxes import read_boxes
from product1m.data.photos import encode_jpeg
from product1m.sample.drawn.layers import ProductMap
from product1m.sample.drawn.plan import SampleSizes, plan_rows
from product1m.sample.drawn.rendering import render_with_boxes
from product1m.steps import ingestion

CONFIG = IngestionConfig(num_workers=1, max_photo_side_px=100, max_quarantine_share=0.5)


def write_dataset(folder: Path, boxes: object, extra: Mapping[str, object] | None = None) -> Path:
    """Two photos of 200 × 100 pixels; the second query has the boxes and fields under test."""
    (folder / "images").mkdir(parents=True)
    for n in range(2):
        photo = np.random.default_rng(n).integers(0, 255, (100, 200, 3), dtype=np.uint8)
        (folder / f"images/{n}.jpg").write_bytes(encode_jpeg(photo))
    for role, count in (("train", 2), ("gallery", 1), ("queries", 3)):
        rows = [
            {"id": f"{role}{n}", "caption": f"Lumi rose {n}", "image": f"images/{n % 2}.jpg"}
            | ({} if role == "train" else {"labels": ["Lumi rose"]})
            | ({"split": "test" if n == 2 else "dev"} if role == "queries" else {})
            | ({"boxes": boxes} if (role, n) == ("queries", 1) and boxes else {})
            | (dict(extra) if (role, n) == ("queries", 1) and extra else {})
            for n in range(count)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{role}.jsonl").write_text(text, "utf-8")
    return folder


def ingest(dataset: Path, folder: Path) -> dict[str, float]:
    return ingestion.run(
        str(dataset), folder / "train", folder / "gallery", folder / "queries", CONFIG
    )


@pytest.mark.parametrize("place", ["field", "file"])
def test_boxes_follow_the_photo_to_its_stored_size(tmp_path: Path, place: str) -> None:
    boxes: list[list[float]] = [[20, 10, 100, 60], [150.5, 0, 260, 120]]
    dataset = write_dataset(tmp_path / "dataset", boxes if place == "field" else None)
    if place == "file":
        write_boxes(dataset / "boxes.jsonl", {"queries1": boxes, "of another data set": boxes})
    metrics = ingest(dataset, tmp_path)
    assert metrics["queries/with_boxes"] == 1
    queries = open_artifact(tmp_path / "queries", "ingestion", "queries")
    table = pd.read_parquet(queries.file(BOXES))
    assert table["item"].tolist() == [1, 1]
    # The photo is stored at half its size; a box that leads out of it ends at its edge.
    expected = np.array([[10, 5, 50, 30], [75.25, 0, 100, 50]])
    np.testing.assert_allclose(table[["x1", "y1", "x2", "y2"]], expected)


@pytest.mark.parametrize("place", ["field", "file"])
def test_labels_of_boxes_follow_them(tmp_path: Path, place: str) -> None:
    labels = ["Lumi rose", "Lumi rose", " Lumi rose "]
    inside: list[list[float]] = [[20, 10, 100, 60], [150, 0, 260, 120], [110, 10, 190, 60]]
    extra = {"box_labels": labels} if place == "field" else None
    dataset = write_dataset(tmp_path / "dataset", inside if extra else None, extra)
    if place == "file":
        known: dict[str, list[list[float]]] = {"queries1": inside, "queries0": inside[:1]}
        write_boxes(dataset / "boxes.jsonl", known, {"queries1": labels})
    metrics = ingest(dataset, tmp_path)
    assert metrics["queries/with_box_labels"] == 1
    queries = open_artifact(tmp_path / "queries", "ingestion", "queries")
    table = pd.read_parquet(queries.file(BOXES))
    assert table.loc[table["item"] == 1, "label"].tolist() == ["Lumi rose"] * 3
    assert table.loc[table["item"] == 0, "label"].tolist() == ([""] if place == "file" else [])


@pytest.mark.parametrize("place", ["field", "file"])
@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (["Lumi rose", "Lumi rose"], "one label for each of the 1 boxes, got 2"),
        ([], "one label for each of the 1 boxes, got 0"),
        ("Lumi rose", "expected a list of strings, one per box, got 'Lumi rose'"),
        ([7], r"expected a list of strings, one per box, got \[7\]"),
        (["Nori rose"], "'Nori rose' is not a label of the query; its labels are Lumi rose"),
    ],
)
def test_labels_that_do_not_belong_to_the_boxes_are_rejected_with_the_reason(
    tmp_path: Path, labels: object, reason: str, place: str
) -> None:
    row = {"boxes": [[5, 5, 90, 90]], "box_labels": labels}
    dataset = write_dataset(tmp_path / "dataset", None, row if place == "field" else None)
    if place == "file":
        (dataset / "boxes.jsonl").write_text(json.dumps({"id": "queries1", **row}) + "\n", "utf-8")
    ingest(dataset, tmp_path)
    (line,) = pd.read_parquet(tmp_path / "queries/quarantine.parquet").to_dict("records")
    assert line["id"] == "queries1"
    assert re.search(reason, line["reason"])


def test_a_data_set_without_boxes_gives_none(tmp_path: Path) -> None:
    metrics = ingest(write_dataset(tmp_path / "dataset", None), tmp_path)
    assert metrics["queries/with_boxes"] == 0
    assert BOXES not in open_artifact(tmp_path / "queries", "ingestion").manifest.files


@pytest.mark.parametrize(
    ("boxes", "reason"),
    [
        ([[0, 0, 5]], r"expected \[x1, y1, x2, y2\], got \[0, 0, 5\]"),
        ([[0, 0, 5, "6"]], r"expected \[x1, y1, x2, y2\]"),
        ([[5, 0, 5, 9]], r"has no area"),
        ([[50, 10, 20, 30]], r"has no area; .*it looks like \[x, y, width, height\]"),
        ({"x1": 0}, r"expected a list of"),
        ([[0, 0, 10**400, 9]], r"expected \[x1, y1, x2, y2\]"),
        ([[0, 0, 1e300, 9]], r"expected \[x1, y1, x2, y2\]"),
        ([[0.1, 0.2, 0.5, 0.9]], r"looks like shares of the photo's sides, .*pixels of its 200 x"),
        ([[5, 5, 9, 9], [300, 20, 700, 90]], r"\[300.*outside the photo of 200 x 100 px"),
        ([[0, 0, 5, 5]] * 1001, r"1001 boxes, more than 1000"),
    ],
)
def test_a_query_whose_boxes_are_none_is_set_aside_with_the_reason(
    tmp_path: Path, boxes: object, reason: str
) -> None:
    ingest(write_dataset(tmp_path / "dataset", boxes), tmp_path)
    quarantine = pd.read_parquet(tmp_path / "queries/quarantine.parquet")
    assert quarantine["id"].tolist() == ["queries1"]
    assert quarantine["reason"].str.contains(reason).all()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"id": "q", "boxes": [[1, 2]]}', r"expected \[x1, y1, x2, y2\], got \[1, 2\]"),
        (b'{"boxes": [[1, 2, 3, 4]]}', r'expected {"id": ., "boxes": .*\(.id.\)'),
        (b"no json", "expected .*got 'no json'"),
        (b"[1]", "expected .*got"),
        (b'{"id": "M\xfcller", "boxes": [[1, 2, 3, 4]]}', r"not UTF-8 \(.*byte 0xfc at 9\)"),
        (b'{"id": "q", "boxes": ' + b"[" * 5000, "more than 16 lists or objects inside each other"),
        (
            b'{"id": "q", "boxes": [[0, 0, 1' + b"0" * 400 + b", 2]]}",
            r"expected \[x1, y1, x2, y2\]",
        ),
        (b'{"id": "q", "boxes": [[0, 0, 1' + b"0" * 5000 + b", 2]]}", "expected .*4300 digits"),
        (b'{"id": "q", "boxes": [[0, 0, NaN, 2]]}', r"expected \[x1, y1, x2, y2\]"),
        (b"x" * (1 << 20) + b"y", "longer than 1048576 bytes"),
        (b'{"id": "a", "boxes": [[1, 2, 3, 4]]}', "duplicate id, first at boxes.jsonl:1"),
    ],
)
def test_a_line_that_is_no_query_with_boxes_is_rejected_and_the_others_are_kept(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    good = b'{"id": "%c", "boxes": [[1, 2, 3, 4]]}\n'
    content = b"\xef\xbb\xbf" + good % b"a" + line + b"\n\n" + good % b"b"
    (tmp_path / "boxes.jsonl").write_bytes(content)
    known, rejected = read_boxes(tmp_path)
    assert {item: boxes.boxes for item, boxes in known.items()} == dict.fromkeys(
        "ab", ((1, 2, 3, 4),)
    )
    (bad,) = rejected
    assert (bad.list_name, bad.line) == ("boxes.jsonl", 2)
    assert re.search(reason, bad.reason)


def test_boxes_that_cannot_be_meant_are_quarantined_and_their_query_stays(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", None)
    boxes: dict[str, list[tuple[float, ...]]] = {
        "queries0": [(0.1, 0.1, 0.4, 0.9)],
        "queries1": [(20, 10, 100, 60)],
    }
    write_boxes(dataset / "boxes.jsonl", boxes)
    metrics = ingest(dataset, tmp_path)
    assert (metrics["queries/items"], metrics["queries/with_boxes"]) == (3, 1)
    (row,) = pd.read_parquet(tmp_path / "queries/quarantine.parquet").to_dict("records")
    assert (row["list"], row["line"], row["id"]) == ("boxes.jsonl", 1, "queries0")
    assert "looks like shares of the photo's sides" in row["reason"]


def test_boxes_of_no_query_are_named_and_half_a_character_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = write_dataset(tmp_path / "dataset", None)
    (dataset / "boxes.jsonl").write_text(
        '{"id": "queries0", "boxes": [[1, 2, 30, 40]]}\n'
        '{"id": "query 0", "boxes": [[1, 2, 30, 40]]}\n'
        '{"id": "half \\ud800", "boxes": []}\n'
    )
    ingest(dataset, tmp_path)
    assert "1 of 2 lines of boxes.jsonl have an id that no query has" in caplog.text
    assert "line 2: 'query 0'" in caplog.text
    (row,) = pd.read_parquet(tmp_path / "queries/quarantine.parquet").to_dict("records")
    assert (row["line"], row["id"]) == (3, "half \\ud800")


def test_a_box_a_little_outside_the_photo_is_plausible() -> None:
    check_boxes([(-3, -2, 104, 52), (90, 40, 105, 52)], 100, 50)
    with pytest.raises(BoxError, match="outside the photo"):
        check_boxes([(-80, 0, 20, 50)], 100, 50)


def test_written_boxes_read_back(tmp_path: Path) -> None:
    boxes: dict[str, list[tuple[float, ...]]] = {
        "220478760026228932": [(1, 2, 30, 40), (0, 0, 5, 5)],
        "q": [(1, 1, 2, 2.5)],
    }
    write_boxes(tmp_path / "boxes.jsonl", boxes)
    known, rejected = read_boxes(tmp_path)
    assert not rejected
    assert {item: found.boxes for item, found in known.items()} == {
        item: tuple(found) for item, found in boxes.items()
    }


def test_a_box_outside_the_photo_is_not_kept(tmp_path: Path) -> None:
    table = BoxTable()
    table.add(0, [(210, 0, 240, 50)], (100, 50), 0.5)
    table.add(1, [(0, 0, 10, 10)], (100, 50), 0.5)
    table.write(tmp_path)
    assert table.num_items == 1
    assert pd.read_parquet(tmp_path / BOXES)["item"].tolist() == [1]


def test_a_product_in_front_takes_from_the_box_of_the_one_behind() -> None:
    product_map, layer = ProductMap(20, 40), np.ones((10, 10, 4), np.float32)
    product_map.add(layer, 0, 5, "behind")
    product_map.add(layer, 6, 5, "in front")
    product_map.add(layer, -5, 0, "corner")
    faint = layer * 0.2
    product_map.add(faint, 20, 5, "invisible")
    assert product_map.boxes() == [
        ((0, 0, 5, 10), "corner"),
        ((0, 5, 6, 15), "behind"),
        ((6, 5, 16, 15), "in front"),
    ]


def test_a_sample_photo_has_a_box_for_every_product_it_shows() -> None:
    rows = plan_rows(SampleSizes(train_singles=1, train_sets=1, gallery=1, dev=3, test=3), 0)
    for row in [*rows["dev"], *rows["test"]]:
        photo, boxes = render_with_boxes(row)
        height, width = photo.shape[:2]
        assert 1 <= len(boxes) <= len(row.products)
        labels = [label for _, label in boxes]
        assert not Counter(labels) - Counter(product.label for product in row.products)
        for (x1, y1, x2, y2), _ in boxes:
            assert 0 <= x1 < x2 <= width
            assert 0 <= y1 < y2 <= height
            assert (x2 - x1) * (y2 - y1) > 0.003 * width * height
