"""What the lists alone show to be impossible, in the words that a user reads."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from product1m.config import BackgroundSynthesisConfig, IndexingConfig, IngestionConfig
from product1m.data.early_checks import check_index_fits, fitting_index, near_label
from product1m.data.list_checks import check_lists
from product1m.data.lists import find_lists
from product1m.errors import ConfigError, DatasetError, Product1MError
from product1m.retrieval.index import make_index

Rows = dict[str, list[dict[str, Any]]]


def good_rows() -> Rows:
    """Three train and gallery items and four queries that nothing is wrong with."""
    rows: Rows = {"train": [], "gallery": [], "queries": []}
    for role, count in (("train", 3), ("gallery", 3), ("queries", 4)):
        for number in range(count):
            row: dict[str, Any] = {"id": f"{role}-{number}", "caption": f"{role} title {number}"}
            row["image"] = f"images/{role}-{number}.jpg"
            if role != "train":
                row["labels"] = [f"Nivéa Créme {number % 3}"]
            if role == "queries":
                row["split"] = "dev" if number < 2 else "test"
            rows[role].append(row)
    return rows


def check(folder: Path, rows: Rows, factory: str = "Flat", dev_share: float = 0.3) -> None:
    for role, own in rows.items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in own)
        (folder / f"{role}.jsonl").write_text("".join(lines), "utf-8")
    check_lists(
        find_lists(folder),
        IngestionConfig(dev_share=dev_share),
        BackgroundSynthesisConfig(),
        IndexingConfig(factory=factory),
    )


def test_lists_that_can_succeed_pass(tmp_path: Path) -> None:
    check(tmp_path, good_rows())
    rows = good_rows()
    for row in rows["queries"]:
        del row["split"]
    check(tmp_path, rows)


def with_split(rows: Rows, split: str | None) -> None:
    for row in rows["queries"]:
        row["split"] = split


def with_label(rows: Rows, label: str) -> None:
    for row in rows["queries"]:
        row["labels"] = [label]


def with_caption(rows: Rows, caption: str, role: str) -> None:
    with_split(rows, None)
    for row in rows[role]:
        row["caption"] = caption


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda rows: with_split(rows, "test"),
            'no dev query, .*: all 4 have the split \'test\'; give some "split": "dev"',
        ),
        (lambda rows: with_split(rows, "dev"), "no test query, .*: all 4 have the split 'dev'"),
        (
            lambda rows: with_caption(rows, "the same", "queries"),
            "all 4 share one caption or photo, so they cannot be divided",
        ),
        (
            lambda rows: with_caption(rows, "the same", "train"),
            "train: 1 of 3 items can be cut out, .*the same title",
        ),
        (
            lambda rows: [row.update(caption=f"礼盒 {row['id']}") for row in rows["train"]],
            "train: 0 of 3 items can be cut out, .*set_words",
        ),
        (
            lambda rows: with_label(rows, "nivéa créme 1"),
            r"'nivéa créme 1' of queries\.jsonl:1 is not in the gallery; the nearest is 'Nivéa Cré",
        ),
        (
            lambda rows: with_label(rows, "Nivéa  Créme 2"),
            r"of queries\.jsonl:1 .* the nearest is 'Nivéa Créme 2'",
        ),
        (
            lambda rows: with_label(rows, "something else"),
            r"'something else' of queries.jsonl:1 .*, which has 'Nivéa Créme 0' and others",
        ),
        (
            lambda rows: rows["queries"][2].update(id="a,b"),
            r"queries\.jsonl:3: id 'a,b' has a comma, .* retrieval_id_list\.txt",
        ),
        (
            lambda rows: rows["gallery"][0].update(id="a,b"),
            r"gallery\.jsonl:1: id 'a,b' has a comma",
        ),
        (lambda rows: rows["gallery"].clear(), "none of its 0 lines is a usable item"),
        (
            lambda rows: rows["queries"][1].update(caption="x" * 5000),
            "queries.jsonl:2: caption: 5000 characters, more than 4096 bytes",
        ),
    ],
)
def test_lists_that_cannot_succeed_are_refused_with_what_to_change(
    tmp_path: Path, spoil: Any, message: str
) -> None:
    rows = good_rows()
    spoil(rows)
    with pytest.raises(DatasetError) as refused:
        check(tmp_path, rows)
    assert re.search(message, str(refused.value), re.DOTALL), str(refused.value)


def test_labels_in_another_unicode_form_are_the_same(tmp_path: Path) -> None:
    rows = good_rows()
    with_label(rows, "Nive\u0301a Cre\u0301me 1")
    check(tmp_path, rows)


def test_a_share_that_leaves_a_split_empty_is_named(tmp_path: Path) -> None:
    rows = good_rows()
    with_split(rows, None)
    with pytest.raises(DatasetError, match=r"ingestion\.dev_share = 0\.1 of 4 queries leaves none"):
        check(tmp_path, rows, dev_share=0.1)


def test_a_gallery_too_small_for_its_index_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"IVF1024,SQ8' needs at least 1024 .*gives 3; .*=Flat"):
        check(tmp_path, good_rows(), factory="IVF1024,SQ8")


@pytest.mark.parametrize(
    "factory",
    ["Flat", "HNSW32", "SQ8", "IVF16,Flat", "IVF64,SQ8", "PQ4", "IVF8,PQ4x4", "IVF32,PQ4x4fs"],
)
@pytest.mark.parametrize("num_items", [7, 15, 16, 31, 32, 63, 64, 255, 256])
def test_an_index_is_refused_exactly_where_faiss_would(factory: str, num_items: int) -> None:
    def accepted(build: Any) -> bool:
        try:
            build()
        except Product1MError:
            return False
        return True

    early = accepted(lambda: check_index_fits(factory, num_items))
    assert early == accepted(lambda: make_index(factory, 32, num_items, 1, 0))


@pytest.mark.parametrize(("num_items", "index"), [(3, "Flat"), (623, "Flat"), (624, "IVF16,SQ8")])
def test_the_advised_index_has_39_items_a_cell(num_items: int, index: str) -> None:
    assert fitting_index(num_items) == index
    check_index_fits(index, num_items)


def test_the_nearest_label_is_the_same_but_for_its_form_or_else_a_similar_one() -> None:
    known = {"Lumi Rose", "Lumi Rosé", "Ａvène Thermal", "Bio Oil"}
    assert near_label("LUMI  rose", known) == "Lumi Rose"
    assert near_label("Avène thermal", known) == "Ａvène Thermal"
    assert near_label("Lumi Roze", known) == "Lumi Rose"
    assert near_label("Chanel", known) == ""
