"""Ranking files and list folders, read as meant and to the letter."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from product1m.errors import DatasetError, RetrievalError, StorageError
from product1m.evaluation.scoring import read_rankings, score, write_rankings
from tests.support.oracles import evaluator as evaluator_oracle

QUERY_1 = "101,301,201,102,401,103,202,104"


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    folder = tmp_path / "lists"
    folder.mkdir()
    gallery = {f"{n}": "A" for n in range(101, 105)} | {"201": "B", "202": "B"}
    gallery |= {"301": "C", "401": "D"}
    write_list(folder / "product1m_gallery_ossurl_v2.txt", gallery)
    write_list(folder / "product1m_dev_ossurl_v2.txt", {"d1": "C"})
    write_list(folder / "product1m_test_ossurl_v2.txt", {"q1": "A#;#B", "q2": "A#;#A#;#C"})
    return folder


def write_list(path: Path, labels: dict[str, str]) -> None:
    lines = [
        f"{item}#####标题#####https://a/{item}.jpg#####http://b#####{label}"
        for item, label in labels.items()
    ]
    path.write_text("".join(line + "\r\n" for line in lines), "utf-8", newline="")


def ranking_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "retrieval_id_list.txt"
    path.write_text(text, "utf-8")
    return path


def test_a_ranking_file_is_scored_in_both_definitions(lists: Path, tmp_path: Path) -> None:
    path = ranking_file(tmp_path, f"q1,{QUERY_1}\nq2,201,101,301,102,202,401,103,104\n")
    report = score(lists, path)
    assert report.scores["official"]["10"]["mAP"] == pytest.approx((0.770833 + 0.622619) / 2)
    assert report.scores["strict"]["50"]["mAP"] == pytest.approx((0.757937 + 0.622619) / 2)
    assert report.counts["rankings"] == 2
    assert report.counts["queries_without_ranking"] == 0  # nobody ranked a dev query


def test_blanks_after_commas_score_as_meant_with_a_warning_and_zero_as_released(
    lists: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = ranking_file(tmp_path, f"q1, {QUERY_1.replace(',', ', ')}\nq2,101\n")
    meant = score(lists, path, ["official"]).scores["official"]["10"]
    assert meant["mAP"] == pytest.approx((0.770833 + 1) / 2)
    assert "1 lines have spaces around ids" in caplog.text
    released = score(lists, path, ["official"], as_released=True).scores["official"]["10"]
    assert released["mAP"] == pytest.approx(1 / 2)


def test_a_trailing_blank_line_is_ignored_with_a_warning_and_halves_the_score_as_released(
    lists: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = ranking_file(tmp_path, f"q1,{QUERY_1}\n\n")
    assert score(lists, path, ["official"]).scores["official"]["10"]["mAP"] == pytest.approx(
        0.770833, abs=1e-6
    )
    assert "1 blank lines ignored" in caplog.text
    released = score(lists, path, ["official"], as_released=True).scores["official"]["10"]
    assert released["mAP"] == pytest.approx(0.385417, abs=1e-6)


def test_a_query_listed_twice_is_counted_twice_as_released_and_refused_otherwise(
    lists: Path, tmp_path: Path
) -> None:
    path = ranking_file(tmp_path, f"q1,{QUERY_1}\nq1,101\n")
    assert read_rankings(path, as_released=True)[1] == ("q1", ["101"])
    released = score(lists, path, ["official"], as_released=True).scores["official"]["10"]
    assert released["mAP"] == pytest.approx((0.770833 + 1) / 2, abs=1e-6)
    with pytest.raises(RetrievalError, match=r"txt:2: query q1 has a ranking in line 1 already"):
        read_rankings(path)


def test_a_query_without_a_ranking_scores_zero_in_strict_and_is_not_counted_in_official(
    lists: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    report = score(lists, ranking_file(tmp_path, f"q1,{QUERY_1}\n"))
    assert report.scores["official"]["10"]["mAP"] == pytest.approx(0.770833, abs=1e-6)
    assert report.scores["strict"]["10"]["mAP"] == pytest.approx(0.757937 / 2, abs=1e-6)
    assert report.counts["queries_without_ranking"] == 1
    assert "1 queries have no ranking (q2)" in caplog.text


@pytest.mark.parametrize("as_released", [False, True])
def test_one_split_is_scored_as_if_the_other_had_no_rankings(
    lists: Path, tmp_path: Path, as_released: bool
) -> None:
    both = ranking_file(tmp_path, f"d1,101\nq1,{QUERY_1}\nq2,101\n")
    report = score(lists, both, ["official"], as_released, split="test")
    alone = score(lists, ranking_file(tmp_path, f"q1,{QUERY_1}\nq2,101\n"), ["official"])
    assert report.scores == alone.scores
    assert report.counts["rankings"] == 2
    dev = ranking_file(tmp_path, "d1,301\n")
    assert score(lists, dev, ["official"], as_released, "dev").scores["official"]["10"]["mAP"] == 1
    message = "no ranking of a test query; queries in the lists: (2 test, 1 dev|1 dev, 2 test)"
    with pytest.raises(RetrievalError, match=message):
        score(lists, dev, ["official"], as_released, "test")


def test_ids_that_are_not_in_the_lists_are_counted_and_reported(
    lists: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_list(lists / "product1m_dev_ossurl_v2.txt", {"d1": "C#;#Z"})
    path = ranking_file(tmp_path, "d1,301,301,999\nq7,101\nq1,101\n")
    counts = score(lists, path, ["official"]).counts
    assert counts["unknown_gallery_ids"] == 1
    assert counts["repeated_gallery_ids"] == 1
    assert counts["labels_missing_from_gallery"] == 1
    assert counts["queries_asking_for_labels_missing_from_gallery"] == 1
    assert counts["rankings_of_unknown_queries"] == 1
    assert "1 of 3 rankings are of queries that are not in the lists" in caplog.text
    assert "1 ids are not in the gallery, 1 repeat an id of their ranking" in caplog.text


def test_json_lines_are_scored_too(tmp_path: Path) -> None:
    gallery = '{"id": "g1", "caption": "a", "image": "g1.jpg", "labels": ["A"]}\n'
    query = '{"id": "q1", "caption": "a", "image": "q1.jpg", "labels": ["A"]}\n'
    (tmp_path / "gallery.jsonl").write_text(gallery)
    (tmp_path / "queries.jsonl").write_text(query)
    report = score(tmp_path, ranking_file(tmp_path, "q1,g1\n"))
    assert report.scores["strict"]["10"] == {"mAP": 1.0, "mAR": 1.0, "Prec": 0.1}


def test_written_rankings_read_back_the_same_both_ways(tmp_path: Path) -> None:
    rankings = {"220478760026228932": ["101", "a b"], "q2": ["102"], "q3": []}
    write_rankings(tmp_path / "list.txt", rankings)
    assert dict(read_rankings(tmp_path / "list.txt")) == rankings
    assert dict(read_rankings(tmp_path / "list.txt", as_released=True)) == rankings


@pytest.mark.parametrize("name", ["", "a,b", " a", "a\n"])
def test_an_id_that_could_not_be_read_back_is_not_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(RetrievalError, match="cannot be written to a ranking file"):
        write_rankings(tmp_path / "list.txt", {"q1": ["101", name]})
    assert not (tmp_path / "list.txt").exists()


@pytest.mark.parametrize("text", ["q1,101,,102\n", "q1,101,\n", ",101\n"])
def test_an_empty_id_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(RetrievalError, match=r"retrieval_id_list.txt:1: an id is empty"):
        read_rankings(ranking_file(tmp_path, text))


def test_a_byte_order_mark_is_no_part_of_the_first_query(tmp_path: Path) -> None:
    path = ranking_file(tmp_path, "\ufeffq1,101\n")
    assert read_rankings(path)[0][0] == "q1"
    assert read_rankings(path, as_released=True)[0][0] == "\ufeffq1"


def test_files_that_hold_no_rankings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RetrievalError, match="no rankings; expected one line per query"):
        read_rankings(ranking_file(tmp_path, "\n \n"))
    with pytest.raises(StorageError, match="cannot be read as UTF-8 text"):
        read_rankings(tmp_path / "absent.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StorageError, match="cannot be read as UTF-8 text"):
        read_rankings(tmp_path / "binary.txt")


def test_lists_that_are_missing_short_or_ambiguous_are_refused(lists: Path, tmp_path: Path) -> None:
    path = ranking_file(tmp_path, f"q1,{QUERY_1}\n")
    gallery = lists / "product1m_gallery_ossurl_v2.txt"
    whole = gallery.read_text("utf-8")
    gallery.write_text(whole + "501#####标题\n", "utf-8")
    with pytest.raises(
        DatasetError, match=r"v2.txt:9: expected 5 fields.*scoring needs complete labels"
    ):
        score(lists, path)
    with pytest.raises(DatasetError, match=r"v2.txt:9: expected 5 fields.*released script stops"):
        score(lists, path, ["official"], as_released=True)
    gallery.write_text(whole + whole.splitlines()[0] + "\n", "utf-8")
    with pytest.raises(DatasetError, match=r"v2.txt:9: id 101 appears twice in the lists"):
        score(lists, path)
    gallery.unlink()
    with pytest.raises(DatasetError, match=r"gallery_ossurl_v2.txt: missing; expected"):
        score(lists, path)
    with pytest.raises(DatasetError, match="the released script needs"):
        score(lists, path, ["official"], as_released=True)


def test_the_released_reading_has_no_strict_definition(lists: Path, tmp_path: Path) -> None:
    with pytest.raises(RetrievalError, match="expected the definition official, got"):
        score(lists, ranking_file(tmp_path, "q1,101\n"), as_released=True)


names = st.sampled_from(["A", "B", "C", "甲 乙", "Z"])
gallery_ids = st.sampled_from([f"g{number}" for number in range(12)])
query_ids = st.sampled_from(["q1", "q2", "q3", "220478760026228932"])
list_rows = st.lists(
    st.tuples(query_ids, st.lists(names, min_size=1, max_size=13)), min_size=1, max_size=5
)
listed = st.one_of(gallery_ids, st.sampled_from(["unknown", "", " g1", "g2 "]))
ranking_lines = st.lists(
    st.one_of(
        st.tuples(st.one_of(query_ids, st.just("nobody")), st.lists(listed, max_size=120)).map(
            lambda row: ",".join((row[0], *row[1]))
        ),
        st.sampled_from(["", "  ", "q1", ","]),
    ),
    min_size=1,
    max_size=6,
)


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.tuples(gallery_ids, names.filter(lambda name: name != "Z")), min_size=1),
    list_rows,
    list_rows,
    ranking_lines,
)
def test_as_released_scores_every_file_as_the_released_script_does(
    gallery: list[tuple[str, str]],
    test: list[tuple[str, list[str]]],
    dev: list[tuple[str, list[str]]],
    lines: list[str],
) -> None:
    """Repeated ids and rows, unknown ids, labels missing from the gallery, 12 labels, blanks."""

    def text(rows: Iterable[tuple[str, str]]) -> str:
        return "".join(
            f"{item}#####标题#####http://a#####http://b#####{label}\r\n" for item, label in rows
        )

    lists = {
        "gallery": text(gallery),
        "test": text((query, "#;#".join(labels)) for query, labels in test),
        "dev": text((query, "#;#".join(labels)) for query, labels in dev),
    }
    ranked = "".join(f"{line}\n" for line in lines)
    with tempfile.TemporaryDirectory() as scratch:
        for name, content in lists.items():
            path = Path(scratch) / f"product1m_{name}_ossurl_v2.txt"
            path.write_text(content, "utf-8", newline="")
        path = ranking_file(Path(scratch), ranked)
        if not ranked.strip():
            with pytest.raises(RetrievalError, match="no rankings"):
                score(Path(scratch), path, ["official"], as_released=True)
            return
        found = score(Path(scratch), path, ["official"], as_released=True).scores["official"]
    for depth in (10, 50, 100):
        expected = evaluator_oracle.released(lists, ranked, depth)
        assert list(found[str(depth)].values()) == pytest.approx(expected, abs=1e-12)
