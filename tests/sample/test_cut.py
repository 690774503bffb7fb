"""Cutting a sample out of a data set of either format."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from product1m.data.boxes import write_boxes
from product1m.data.known_boxes import read_boxes
from product1m.data.photos import encode_jpeg
from product1m.data.sample_mark import is_sample
from product1m.errors import DatasetError, StorageError
from product1m.sample import SampleSizes, cut_sample
from product1m.sample.drawn.plan import LISTS, plan_rows
from product1m.sample.drawn.split import write_list
from product1m.storage.opening import open_store


def photo(shade: int) -> bytes:
    return encode_jpeg(np.full((24, 24, 3), shade % 256, np.uint8))


@pytest.fixture(scope="module")
def product1m(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in Product1M's format with gray photos."""
    folder = tmp_path_factory.mktemp("product1m")
    (folder / "images").mkdir()
    (folder / "backgrounds").mkdir()
    (folder / "backgrounds" / "room.jpg").write_bytes(photo(9))
    rows = plan_rows(SampleSizes(train_singles=300, train_sets=50), 0)
    for name in LISTS:
        write_list(folder / f"product1m_{name}_ossurl_v2.txt", rows[name])
        for number, row in enumerate(rows[name]):
            (folder / "images" / f"{row.id}.jpg").write_bytes(photo(number))
    return folder


def lines_of(folder: Path, name: str) -> list[str]:
    text = (folder / f"product1m_{name}_ossurl_v2.txt").read_bytes().decode()
    return text.split("\r\n")[:-1]


def labels_of(line: str) -> list[str]:
    return line.split("#####")[4].split("#;#")


def test_queries_stay_with_their_gallery_and_nothing_else_does(
    product1m: Path, tmp_path: Path
) -> None:
    found = cut_sample(product1m, tmp_path / "cut", 10)
    gallery = {labels_of(line)[0] for line in lines_of(tmp_path / "cut", "gallery")}
    assert len(gallery) == found["classes"] == 10
    for name in ("dev", "test"):
        kept = [line for line in lines_of(product1m, name) if set(labels_of(line)) <= gallery]
        assert lines_of(tmp_path / "cut", name) == kept
        assert len(kept) == found[f"{name}_items"] > 0
    kept = [line for line in lines_of(product1m, "gallery") if labels_of(line)[0] in gallery]
    assert lines_of(tmp_path / "cut", "gallery") == kept


def test_whole_queries_are_preferred_to_popular_classes(product1m: Path, tmp_path: Path) -> None:
    """More queries stay than with the ten classes that most queries show."""
    found = cut_sample(product1m, tmp_path / "cut", 10)
    lines = lines_of(product1m, "dev") + lines_of(product1m, "test")
    every = {label for line in lines for label in labels_of(line)}
    rng = np.random.default_rng(0)
    by_chance = [
        sum(
            set(labels_of(line)) <= set(rng.choice(sorted(every), 10, replace=False))
            for line in lines
        )
        for _ in range(5)
    ]
    assert found["queries"] > 2 * max(by_chance)


def test_train_items_stay_at_the_gallerys_share_chosen_brands_first(
    product1m: Path, tmp_path: Path
) -> None:
    found = cut_sample(product1m, tmp_path / "cut", 8)
    share = found["gallery_items"] / len(lines_of(product1m, "gallery"))
    kept = lines_of(tmp_path / "cut", "train")
    assert len(kept) == found["train_items"] == round(share * 350)
    assert set(kept) <= set(lines_of(product1m, "train"))
    brands = {labels_of(line)[0].split(" ")[0] for line in lines_of(tmp_path / "cut", "gallery")}
    assert sum(any(b in line.split("#####")[1] for b in brands) for line in kept) > 0.8 * len(kept)


def test_every_kept_line_has_its_photo_and_no_other_photo_is_copied(
    product1m: Path, tmp_path: Path
) -> None:
    found = cut_sample(product1m, tmp_path / "cut", 6)
    ids = {line.split("#####")[0] for name in LISTS for line in lines_of(tmp_path / "cut", name)}
    assert {path.stem for path in (tmp_path / "cut" / "images").iterdir()} == ids
    for item_id in ids:
        copied = (tmp_path / "cut" / "images" / f"{item_id}.jpg").read_bytes()
        assert copied == (product1m / "images" / f"{item_id}.jpg").read_bytes()
    assert (tmp_path / "cut" / "backgrounds" / "room.jpg").is_file()
    assert found["backgrounds"] == 1
    assert is_sample(open_store(str(tmp_path / "cut")))
    assert not is_sample(open_store(str(product1m)))


def test_boxes_of_kept_queries_come_along(product1m: Path, tmp_path: Path) -> None:
    source = tmp_path / "with-boxes"
    shutil.copytree(product1m, source)
    ids = [line.split("#####")[0] for name in ("dev", "test") for line in lines_of(source, name)]
    write_boxes(source / "boxes.jsonl", {item: [(0, 0, 5, n + 1)] for n, item in enumerate(ids)})
    cut_sample(source, tmp_path / "cut", 6)
    kept = [
        line.split("#####")[0]
        for name in ("dev", "test")
        for line in lines_of(tmp_path / "cut", name)
    ]
    known, _ = read_boxes(tmp_path / "cut")
    found = {item: boxes.boxes for item, boxes in known.items()}
    assert sorted(found) == sorted(kept)
    assert all(found[item] == ((0, 0, 5, ids.index(item) + 1),) for item in kept)


def test_the_same_seed_cuts_the_same_and_another_seed_something_else(
    product1m: Path, tmp_path: Path
) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        cut_sample(product1m, tmp_path / name, 10, seed)
    lists = {n: [lines_of(tmp_path / n, part) for part in LISTS] for n in "abc"}
    assert lists["a"] == lists["b"] != lists["c"]


def write_jsonl(folder: Path) -> Path:
    items: dict[str, list[dict[str, Any]]] = {
        "train": [{"id": f"t{n}", "caption": f"train {n}"} for n in range(8)],
        "gallery": [
            {"id": f"g{n}", "caption": "thing", "labels": [f"Acme {'ABCD'[n % 4]}"]}
            for n in range(8)
        ],
        "queries": [
            {"id": "q0", "caption": "two", "labels": ["Acme A", "Acme B", "Acme A"]},
            {"id": "q1", "caption": "two again", "labels": ["Acme B", "Acme A"]},
            {"id": "q2", "caption": "other", "labels": ["Acme C", "Acme D"], "split": "dev"},
            {"id": "q3", "caption": "nowhere", "labels": ["Acme A", "Acme Z"]},
        ],
    }
    for role, rows in items.items():
        (folder / role).mkdir(parents=True)
        for row in rows:
            row["image"] = f"{role}/{row['id']}.png"
            (folder / row["image"]).write_bytes(photo(3))
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{role}.jsonl").write_text(text)
    return folder


def test_json_lines_are_cut_too_and_keep_their_folders(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "mine")
    found = cut_sample(source, tmp_path / "cut", 2)
    kept = [json.loads(line) for line in (tmp_path / "cut" / "queries.jsonl").open()]
    gallery = [json.loads(line) for line in (tmp_path / "cut" / "gallery.jsonl").open()]
    assert {row["id"] for row in kept} in ({"q0", "q1"}, {"q2"})
    assert len(gallery) == 4
    assert {label for row in kept for label in row["labels"]} == {r["labels"][0] for r in gallery}
    assert all((tmp_path / "cut" / row["image"]).is_file() for row in kept + gallery)
    assert found["train_items"] == 4


def test_items_without_a_photo_are_left_out_and_counted(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "mine")
    for name in ("gallery/g0.png", "queries/q1.png"):
        (source / name).unlink()
    with (source / "gallery.jsonl").open("a") as file:
        file.write("not json\n")
    found = cut_sample(source, tmp_path / "cut", 4)
    assert found["without_photo"] == 2
    assert found["malformed_lines"] == 1
    assert found["gallery_items"] == 7
    assert found["queries"] == 2


@pytest.mark.parametrize("number", [0, 5])
def test_a_number_of_classes_that_is_not_there_is_refused(tmp_path: Path, number: int) -> None:
    source = write_jsonl(tmp_path / "mine")
    message = rf"mine: cannot choose {number} classes; 4 classes of its queries are in the gallery"
    with pytest.raises(DatasetError, match=message):
        cut_sample(source, tmp_path / "cut", number)
    assert not (tmp_path / "cut").exists()


def test_too_few_classes_for_any_query_are_refused(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "mine")
    with pytest.raises(
        DatasetError, match=r"no query has all its labels among the 1 chosen classes"
    ):
        cut_sample(source, tmp_path / "cut", 1)


def test_lists_whose_photos_were_never_downloaded_are_refused(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "mine")
    for path in (source / "gallery").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match=r"no item of gallery\.jsonl .*download the photos"):
        cut_sample(source, tmp_path / "cut", 2)


def test_a_folder_without_lists_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such folder"):
        cut_sample(tmp_path / "nothing", tmp_path / "cut", 2)


def test_a_cut_is_not_written_over_something_else(product1m: Path) -> None:
    with pytest.raises(StorageError, match="not an empty folder"):
        cut_sample(product1m, product1m, 10)
