"""Lists become items, and a line that is not an item has a reason."""

import html
import json
import os
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from product1m.data.lists import (
    FIELD_SEPARATOR,
    LABEL_SEPARATOR,
    ListFile,
    ListItem,
    RejectedLine,
    Role,
    clean_caption,
    count_lines,
    find_lists,
    read_list,
)
from product1m.errors import DatasetError

# White space at its ends, entities and invisible characters would be cleaned away.
_characters = st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="#&")
words = st.text(_characters, min_size=1, max_size=8)
captions = st.lists(words, min_size=1, max_size=5).map(" ".join)
ids = st.text("0123456789", min_size=9, max_size=18)
composed = (
    st.tuples(words, words).map(" ".join).map(lambda text: unicodedata.normalize("NFC", text))
)
labels = st.lists(composed, min_size=1, max_size=12)


def product1m_file(
    folder: Path, lines: list[str], name: str = "dev", newline: str = "\r\n"
) -> Path:
    path = folder / f"product1m_{name}_ossurl_v2.txt"
    path.write_bytes("".join(line + newline for line in lines).encode())
    return path


def jsonl_file(folder: Path, rows: list[object], role: str = "queries") -> Path:
    path = folder / f"{role}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def product1m_line(id: str = "1", caption: str = "c", labels: str | None = "A x") -> str:
    fields = [id, caption, f"https://a.example/{id}.png", f"http://b.example/{id}.jpg"]
    return FIELD_SEPARATOR.join(fields if labels is None else [*fields, labels])


def read_one(path: Path, role: Role = "queries", split: str = "") -> ListItem | RejectedLine:
    (row,) = read_list(ListFile(path, role, split))
    return row


@settings(deadline=None)
@given(st.lists(st.tuples(ids, captions, labels), max_size=6))
def test_a_product1m_list_gives_back_what_was_written_to_it(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, list[str]]]
) -> None:
    lines = [
        product1m_line(number, caption, LABEL_SEPARATOR.join(names))
        for number, caption, names in rows
    ]
    path = product1m_file(tmp_path_factory.mktemp("lists"), lines)
    parsed = list(read_list(ListFile(path, "queries", "dev")))
    assert [
        (row.id, row.caption, list(row.labels)) for row in parsed if isinstance(row, ListItem)
    ] == rows
    assert [row.line for row in parsed] == list(range(1, len(rows) + 1))


@settings(deadline=None)
@given(st.lists(st.tuples(ids, captions, labels), max_size=6))
def test_a_json_lines_list_gives_back_what_was_written_to_it(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, list[str]]]
) -> None:
    objects: list[object] = [
        {"id": number, "caption": caption, "image": f"images/{number}.jpg", "labels": names}
        for number, caption, names in rows
    ]
    path = jsonl_file(tmp_path_factory.mktemp("lists"), objects)
    parsed = list(read_list(ListFile(path, "queries")))
    assert [
        (row.id, row.caption, list(row.labels)) for row in parsed if isinstance(row, ListItem)
    ] == rows


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40) | st.just(b'{"id": 3}') | st.just(b"1#####a#####b")))
def test_no_line_is_lost_whatever_the_bytes(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    content = b"\n".join(lines)
    written = [number for number, line in enumerate(content.split(b"\n"), 1) if line.strip()]
    for name in ("queries.jsonl", "product1m_dev_ossurl_v2.txt"):
        path = tmp_path_factory.mktemp("lists") / name
        path.write_bytes(content)
        assert [row.line for row in read_list(ListFile(path, "queries"))] == written
        assert count_lines(path)[0] == len(written)


def test_a_carriage_return_is_no_part_of_the_last_label(tmp_path: Path) -> None:
    lines = [product1m_line("1", labels="A x#;#A y"), product1m_line("2", labels="A y")]
    first, second = read_list(ListFile(product1m_file(tmp_path, lines), "queries", "dev"))
    assert isinstance(first, ListItem)
    assert isinstance(second, ListItem)
    assert first.labels == ("A x", "A y")
    assert second.labels == ("A y",)
    assert first.split == "dev"
    assert first.urls == ("https://a.example/1.png", "http://b.example/1.jpg")


def test_a_train_list_has_four_fields_and_no_labels(tmp_path: Path) -> None:
    path = product1m_file(tmp_path, [product1m_line("1", labels=None)], "train")
    row = read_one(path, "train")
    assert isinstance(row, ListItem)
    assert row.labels == ()
    missing = read_one(path, "gallery")
    assert isinstance(missing, RejectedLine)
    assert "expected 5 fields separated by '#####', got 4" in missing.reason


def test_an_id_stays_a_string_with_all_its_digits(tmp_path: Path) -> None:
    row = read_one(product1m_file(tmp_path, [product1m_line("220478760026228932")]))
    assert row.id == "220478760026228932"
    number = {"id": 220478760026228932, "caption": "c", "image": "a.jpg", "labels": ["A"]}
    assert read_one(jsonl_file(tmp_path, [number])).id == "220478760026228932"


def test_a_byte_order_mark_is_no_part_of_the_first_id(tmp_path: Path) -> None:
    path = tmp_path / "product1m_dev_ossurl_v2.txt"
    path.write_bytes(b"\xef\xbb\xbf" + product1m_line("17").encode())
    assert read_one(path).id == "17"


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("L&ocirc;tion &amp; cr&egrave;me 50&times;2", "Lôtion & crème 50×2"),
        ("a&nbsp;b\u3000c \t d", "a b c d"),
        ("a\u200bb&zwnj;c", "abc"),
        ("\x1b[31mred\x00\x9b \u202eevil\u2066", "[31mred evil"),
        ("no entity & none &here", "no entity & none &here"),
    ],
)
def test_captions_are_unescaped_and_tidied(raw: str, clean: str) -> None:
    assert clean_caption(raw) == clean


@settings(deadline=None)
@given(captions)
def test_an_escaped_caption_is_what_it_was(caption: str) -> None:
    assert clean_caption(html.escape(caption)) == caption


def test_white_space_inside_a_label_is_kept(tmp_path: Path) -> None:
    row = read_one(product1m_file(tmp_path, [product1m_line(labels="A  x")]))
    assert isinstance(row, ListItem)
    assert row.labels == ("A  x",)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1#####c#####u", "expected 5 fields separated by '#####', got 3"),
        (product1m_line() + "#####x", "expected 5 fields separated by '#####', got 6"),
        (product1m_line(id=""), "the id is empty"),
        (product1m_line(id="../../etc/passwd"), "could name a file outside the data set"),
        (product1m_line(id="..\\boot"), "could name a file outside the data set"),
        (product1m_line(id=".hidden"), "could name a file outside the data set"),
        (product1m_line(id="a\tb"), "control characters"),
        (product1m_line(id="9" * 97), "the id is longer than 96 bytes"),
        (product1m_line(caption=" &nbsp;&zwnj; "), "the caption is empty"),
        (product1m_line(labels=""), "the label is missing"),
        (product1m_line(labels="A x#;##;#A y"), "a label is empty"),
    ],
)
def test_a_malformed_product1m_line_is_rejected_with_its_place(
    tmp_path: Path, line: str, reason: str
) -> None:
    path = product1m_file(tmp_path, [product1m_line("good"), line])
    good, bad = read_list(ListFile(path, "queries"))
    assert isinstance(good, ListItem)
    assert isinstance(bad, RejectedLine)
    assert str(bad).startswith("product1m_dev_ossurl_v2.txt:2: ")
    assert reason in bad.reason


GOOD = {"id": "a", "caption": "c", "image": "a.jpg", "labels": ["A"]}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([1], "expected a JSON object, got list"),
        ({**GOOD, "id": None}, "id: missing"),
        ({**GOOD, "id": 1.5}, "id: expected a string, got 1.5"),
        ({**GOOD, "id": True}, "id: expected a string, got True"),
        ({**GOOD, "id": "a/b"}, "could name a file outside the data set"),
        ({**GOOD, "caption": None}, "caption: missing"),
        ({**GOOD, "caption": "\ud800"}, "caption: half a surrogate pair"),
        ({**GOOD, "caption": "  "}, "the caption is empty"),
        ({**GOOD, "caption": "\x00\x1b\u202e"}, "the caption is empty"),
        ({**GOOD, "image": None}, "image: missing"),
        ({**GOOD, "image": ""}, "image: empty"),
        ({**GOOD, "image": "../secret.jpg"}, "leads out of the data set"),
        ({**GOOD, "image": "images/../../secret.jpg"}, "leads out of the data set"),
        ({**GOOD, "image": "/etc/passwd"}, "leads out of the data set"),
        ({**GOOD, "image": "a\0.jpg"}, "leads out of the data set"),
        ({**GOOD, "labels": "A"}, "labels: expected a list of strings, got 'A'"),
        ({**GOOD, "labels": [1]}, "labels: expected a string, got 1"),
        ({**GOOD, "labels": []}, "the label is missing"),
        ({**GOOD, "labels": ["A", "\x1b[31m"]}, "labels: ['A', '\\x1b[31m'] have control"),
        ({**GOOD, "split": "validation"}, "split: expected 'dev' or 'test', got 'validation'"),
    ],
)
def test_a_malformed_json_line_is_rejected_with_its_place(
    tmp_path: Path, row: object, reason: str
) -> None:
    good, bad = read_list(ListFile(jsonl_file(tmp_path, [GOOD, row]), "queries"))
    assert isinstance(good, ListItem)
    assert isinstance(bad, RejectedLine)
    assert str(bad).startswith("queries.jsonl:2: ")
    assert reason in bad.reason


def test_lines_that_are_no_json_or_no_text_are_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(b'{"id": "a"\n\xff\xfe\n' + b"[" * 100_000)
    reasons = [
        row.reason for row in read_list(ListFile(path, "train")) if isinstance(row, RejectedLine)
    ]
    assert [reason.split(" (")[0] for reason in reasons] == ["not JSON", "not UTF-8", "not JSON"]


def test_a_gallery_item_shows_one_product(tmp_path: Path) -> None:
    path = jsonl_file(tmp_path, [{**GOOD, "labels": ["A", "B"]}], "gallery")
    row = read_one(path, "gallery")
    assert isinstance(row, RejectedLine)
    assert row.reason == "a gallery item shows one product, got 2 labels"


def test_a_folder_without_lists_says_which_are_missing(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such folder"):
        find_lists(tmp_path / "absent")
    jsonl_file(tmp_path, [GOOD], "train")
    with pytest.raises(DatasetError, match=r"missing: gallery\.jsonl, queries\.jsonl"):
        find_lists(tmp_path)


def test_a_folder_with_both_formats_is_refused(tmp_path: Path) -> None:
    for role in ("train", "gallery", "queries"):
        jsonl_file(tmp_path, [GOOD], role)
    assert [files[0].path.name for files in find_lists(tmp_path).values()] == [
        "train.jsonl",
        "gallery.jsonl",
        "queries.jsonl",
    ]
    for name in ("train", "gallery", "dev", "test"):
        product1m_file(tmp_path, [product1m_line()], name)
    with pytest.raises(DatasetError, match="holds both"):
        find_lists(tmp_path)


@pytest.mark.skipif(
    "PRODUCT1M_SHARED_DATA" not in os.environ,
    reason="PRODUCT1M_SHARED_DATA is not set; it names the folder with Product1M's dev list",
)
def test_the_real_dev_list_is_read_whole() -> None:
    folder = Path(os.environ["PRODUCT1M_SHARED_DATA"]) / "product1m"
    source = ListFile(folder / "product1m_dev_ossurl_v2.txt", "queries", "dev")
    rows = [row for row in read_list(source) if isinstance(row, ListItem)]
    assert len(rows) == len(list(read_list(source))) == 2673
    mentions = Counter(label for row in rows for label in row.labels)
    assert len(mentions) == 295
    assert mentions.total() / len(rows) == pytest.approx(2.772, abs=5e-4)
    assert len({label.split()[0] for label in mentions}) == 34
    repeats = sum(len(set(row.labels)) < len(row.labels) for row in rows)
    assert repeats == 376
