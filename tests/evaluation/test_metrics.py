"""The two definitions against worked examples by hand, and against plain loops."""

import logging

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from product1m.errors import RetrievalError
from product1m.evaluation.metrics import Definition, GroundTruth, mean_scores, score_queries
from tests.support.oracles import evaluator as evaluator_oracle

GALLERY = {
    **dict.fromkeys(("101", "102", "103", "104"), "A"),
    **dict.fromkeys(("201", "202"), "B"),
    "301": "C",
    "401": "D",
}
QUERIES = {
    "q1": ("A", "B"),
    "q2": ("A", "A", "C"),
    "q3": ("A", "Z"),
    "q4": ("B", "C"),
    "q5": ("A", "B", "C", "D", *"AAAAAAAA"),
}
RANKINGS = {
    "q1": ["101", "301", "201", "102", "401", "103", "202", "104"],
    "q2": ["201", "101", "301", "102", "202", "401", "103", "104"],
    "q3": ["101", "102", "103", "104", "201", "202", "301", "401"],
    "q4": ["202", "999", "301", "201", "101", "102", "103", "104"],
    "q5": ["101", "201", "301", "401", "102", "103", "104", "202"],
}
TRUTH = GroundTruth(QUERIES, GALLERY)
TOLERANCE = 1e-6


@pytest.mark.parametrize(
    ("query", "depth", "expected"),
    [
        ("q1", 10, (0.770833, 1.0, 0.666667)),
        ("q2", 10, (0.622619, 1.0, 0.625)),
        ("q3", 10, (0.0, 0.0, 0.0)),
        ("q4", 10, (0.833333, 0.0, 0.666667)),
        ("q5", 10, (1.0, 0.0, 1.0)),
        ("q5", 50, (1.0, 1.0, 1.0)),
        ("q5", 100, (1.0, 1.0, 1.0)),
    ],
)
def test_official_scores_equal_the_first_worked_example(
    query: str, depth: int, expected: tuple[float, float, float]
) -> None:
    assert one_query(query, "official", depth) == pytest.approx(expected, abs=TOLERANCE)


def test_official_means_equal_the_first_worked_example() -> None:
    means = mean_scores(score_queries(RANKINGS, TRUTH, "official"))
    assert list(means) == ["10", "50", "100"]
    for depth, recall in (("10", 0.4), ("50", 0.6), ("100", 0.6)):
        assert means[depth] == pytest.approx(
            {"mAP": 0.645357, "mAR": recall, "Prec": 0.591667}, abs=TOLERANCE
        )


@pytest.mark.parametrize(
    ("query", "ap", "precisions"),
    [("q1", 0.757937, (0.6, 0.12, 0.06)), ("q2", 0.622619, (0.5, 0.1, 0.05))],
)
def test_strict_scores_equal_the_first_worked_example(
    query: str, ap: float, precisions: tuple[float, ...]
) -> None:
    for depth, precision in zip((10, 50, 100), precisions, strict=True):
        expected = (ap, 1.0, precision)
        assert one_query(query, "strict", depth) == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize(
    ("definition", "depth", "expected"),
    [
        ("official", "10", (0.928263, 1.0, 0.9)),
        ("official", "50", (0.928263, 0.75, 0.9)),
        ("official", "100", (0.928263, 0.75, 0.9)),
        ("strict", "10", (0.835437, 0.928571, 0.9)),
        ("strict", "50", (0.696197, 0.75, 0.18)),
        ("strict", "100", (0.696197, 0.75, 0.09)),
    ],
)
def test_both_definitions_equal_the_second_worked_example(
    definition: Definition, depth: str, expected: tuple[float, float, float]
) -> None:
    gallery = (
        {str(item): "A" for item in range(101, 109)}
        | {str(item): "B" for item in range(201, 205)}
        | {"401": "D", "402": "D"}
    )
    truth = GroundTruth({"q": ("A", "A", "B")}, gallery)
    ranking = ["101", "102", "201", "103", "401", "104", "202", "105", "203", "106"]
    means = mean_scores(score_queries({"q": ranking}, truth, definition))[depth]
    assert tuple(means.values()) == pytest.approx(expected, abs=TOLERANCE)


def test_official_counts_every_repeat_of_an_item_and_strict_only_the_first() -> None:
    rankings = {"q1": ["101"] * 10}
    official = score_queries(rankings, TRUTH, "official", [10]).iloc[0]
    assert official["precision"] == 1.0
    strict = score_queries(rankings, TRUTH, "strict", [10]).iloc[0]
    assert strict["precision"] == 0.1
    assert strict["ap"] == pytest.approx(1 / 6)


def test_official_does_not_punish_a_list_that_ends_early() -> None:
    scores = score_queries({"q1": ["101", "201"]}, TRUTH, "official", [10, 100])
    assert scores["ap"].tolist() == [1.0, 1.0]
    assert scores["precision"].tolist() == [1.0, 1.0]


def test_official_scores_unknown_queries_and_empty_lists_zero_and_counts_them() -> None:
    rankings = {"nobody": ["101"], "q1": [], "q2": ["101"]}
    scores = score_queries(rankings, TRUTH, "official", [10])
    assert scores["query_id"].tolist() == ["nobody", "q1", "q2"]
    assert scores["ap"].tolist() == [0.0, 0.0, 1.0]


def test_a_perfect_ranking_loses_recall_only_on_a_row_of_twelve_labels() -> None:
    gallery = {f"{label}{n}": label for label in "ABCDEFGHIJKL" for n in range(12)}
    truth = GroundTruth({"twelve": tuple("ABCDEFGHIJKL"), "two": ("A", "B")}, gallery)
    rankings = {
        query: [f"{label}{n}" for n in range(12) for label in labels]
        for query, labels in truth.query_labels.items()
    }
    means = mean_scores(score_queries(rankings, truth, "official"))
    assert means["10"] == {"mAP": 1.0, "mAR": 0.5, "Prec": 1.0}
    assert means["100"] == {"mAP": 1.0, "mAR": 1.0, "Prec": 1.0}


def test_strict_asks_for_at_least_one_item_of_each_label() -> None:
    labels = tuple(chr(ord("A") + number) for number in range(24))  # 10 / 24 rounds to none
    truth = GroundTruth({"q": labels}, {label: label for label in labels})
    scores = score_queries({"q": list(labels[:10])}, truth, "strict", [10])
    assert scores["recall"].tolist() == [pytest.approx(10 / 24)]


def test_strict_leaves_out_labels_the_gallery_lacks_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    truth = GroundTruth({"q3": ("A", "Z"), "q9": ("Y", "Z")}, GALLERY)
    rankings = {"q3": RANKINGS["q3"], "q9": ["101"]}
    with caplog.at_level(logging.WARNING):
        scores = score_queries(rankings, truth, "strict", [10])
    assert scores["query_id"].tolist() == ["q3"]
    assert scores["ap"].tolist() == [1.0]
    assert truth.missing_labels == {"Z": 2, "Y": 1}
    assert "2 query labels are missing from the gallery ('Z' in 2 queries" in caplog.text
    assert "leaves out queries that have no other (1)" in caplog.text


def test_strict_refuses_a_query_without_labels_by_its_id() -> None:
    with pytest.raises(RetrievalError, match=r"1 of 1 rankings are .*'stranger'.*only `official`"):
        score_queries({"stranger": ["101"]}, TRUTH, "strict")


def test_strict_refuses_a_gallery_that_has_none_of_the_labels() -> None:
    truth = GroundTruth({"q": ("Z",)}, GALLERY)
    with pytest.raises(RetrievalError, match="belong to different data sets"):
        score_queries({"q": ["101"]}, truth, "strict")


@pytest.mark.parametrize(("rankings", "depths"), [({}, [10]), ({"q1": ["101"]}, [0])])
def test_no_ranking_and_no_depth_are_refused(
    rankings: dict[str, list[str]], depths: list[int]
) -> None:
    with pytest.raises(RetrievalError, match="give at least one ranking and depths from 1 on"):
        score_queries(rankings, TRUTH, "official", depths)


def test_the_table_stands_depth_by_depth_in_the_order_of_the_rankings() -> None:
    scores = score_queries(RANKINGS, TRUTH, "official", [50, 10])
    assert scores["depth"].tolist() == [50] * 5 + [10] * 5
    assert scores["query_id"].tolist() == list(RANKINGS) * 2


labels = st.sampled_from(["A", "B", "C", "D", "甲 乙", "Z"])
items = st.sampled_from([f"g{number}" for number in range(14)] + ["unknown", "", " g1"])


@st.composite
def worlds(draw: st.DrawFn) -> tuple[GroundTruth, list[tuple[str, list[str]]], list[int]]:
    gallery = draw(
        st.dictionaries(
            st.sampled_from([f"g{number}" for number in range(14)]),
            labels.filter(lambda label: label != "Z"),
            min_size=1,
        )
    )
    queries = draw(
        st.dictionaries(
            st.sampled_from(["q1", "q2", "q3"]),
            st.lists(labels, min_size=1, max_size=13).map(tuple),
            min_size=1,
        )
    )
    names = st.sampled_from(["q1", "q2", "q3", ""])
    rankings = draw(
        st.lists(st.tuples(names, st.lists(items, max_size=20)), min_size=1, max_size=5)
    )
    depths = draw(st.lists(st.integers(1, 25), min_size=1, max_size=3, unique=True))
    return GroundTruth(queries, gallery), rankings, depths


@settings(deadline=None, max_examples=150)
@given(worlds())
def test_official_scores_equal_plain_loops_on_anything(
    world: tuple[GroundTruth, list[tuple[str, list[str]]], list[int]],
) -> None:
    truth, rankings, depths = world
    scores = score_queries(rankings, truth, "official", depths)
    tables = (truth.query_labels, truth.gallery_label)
    expected = [
        evaluator_oracle.official(query, ids, tables, depth)
        for depth in depths
        for query, ids in rankings
    ]
    np.testing.assert_allclose(scores[["ap", "recall", "precision"]], expected, atol=1e-12)


@settings(deadline=None, max_examples=150)
@given(worlds())
def test_strict_scores_equal_plain_loops_and_stay_fractions(
    world: tuple[GroundTruth, list[tuple[str, list[str]]], list[int]],
) -> None:
    truth, rankings, depths = world
    rankings = [(query, ids) for query, ids in rankings if query in truth.query_labels]
    tables = (truth.query_labels, truth.gallery_label)
    expected = [
        evaluator_oracle.strict(query, ids, tables, depth)
        for depth in depths
        for query, ids in rankings
    ]
    answerable = [row for row in expected if row is not None]
    if not answerable:
        with pytest.raises(RetrievalError):
            score_queries(rankings, truth, "strict", depths)
        return
    scores = score_queries(rankings, truth, "strict", depths)[["ap", "recall", "precision"]]
    np.testing.assert_allclose(scores, answerable, atol=1e-12)
    assert scores.to_numpy().max() <= 1 + 1e-12


def one_query(query: str, definition: Definition, depth: int) -> tuple[float, float, float]:
    scores = score_queries({query: RANKINGS[query]}, TRUTH, definition, [depth]).iloc[0]
    return float(scores["ap"]), float(scores["recall"]), float(scores["precision"])
