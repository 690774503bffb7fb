"""Match scores fitted on judged answers, and the judgment itself on a gallery made by hand."""

from types import SimpleNamespace
from typing import Any

import faiss
import numpy as np
import pandas as pd
import pytest

from product1m.data.geometry import BoxSelection
from product1m.data.vectors import normalize
from product1m.evaluation.match_scores import (
    NOTHING,
    PRESENT,
    REMOVED,
    MatchSettings,
    fit_match_scorer,
    judge_answers,
    match_quality,
    reliability,
)
from product1m.evaluation.statistics import BootstrapPlan
from product1m.retrieval.embedding import BlockLayout
from product1m.retrieval.evidence import OF_POINTS
from product1m.retrieval.index import GalleryIndex
from product1m.retrieval.query_boxes import QueryBoxes
from product1m.retrieval.query_vectors import QueryVectors
from product1m.retrieval.search import Searcher, SearchSettings

PLAN = BootstrapPlan(200, 0.95, 0)
SETTINGS = MatchSettings(removed_share=0.3, max_lost=0.05)
LABELS = ["rose", "rose", "lily", "lily", "iris", "iris"]


def judged(num_boxes: int, seed: int) -> pd.DataFrame:
    """One answer a box; the truth is a logistic function of the lead, 0 if the product is gone."""
    generator = np.random.default_rng(seed)
    rows = []
    for box in range(num_boxes):
        lead = generator.normal(0.5, 1.0)
        right = bool(generator.random() < 1 / (1 + np.exp(-3 * lead)))
        query = box // 3
        rows.append((query, 1, right, PRESENT, lead, 1.0))
        rows.append((query, 1, False, REMOVED, generator.normal(-1.5, 0.5), 1.0))
        if box % 3 == 0:
            rows.append((query, 1, False, NOTHING, generator.normal(-1.0, 0.5), 0.2))
    columns = ["query", "rank", "right", "case", "lead", "detector_score"]
    return pd.DataFrame(rows, columns=columns)


def test_match_scores_hold_on_boxes_that_the_fit_did_not_see() -> None:
    scorer = fit_match_scorer(judged(900, 0), SETTINGS)
    assert scorer is not None
    queries = [f"q{number}" for number in range(300)]
    quality = match_quality(judged(900, 1), scorer, queries, SETTINGS.removed_share, PLAN)
    assert quality.calibration_error < 0.05
    assert quality.figures["lost"].mean == pytest.approx(SETTINGS.max_lost, abs=0.03)
    assert quality.figures["absent_detected"].mean > 0.5
    assert quality.figures["nothing_detected"].mean > 0.5
    for figure in quality.figures.values():
        assert figure.low <= figure.mean <= figure.high


def test_scores_hold_without_points_where_a_copy_has_none() -> None:
    generator = np.random.default_rng(5)

    def with_points(table: pd.DataFrame) -> pd.DataFrame:
        strength = np.where(table["right"], 2.0, 0.0) + generator.normal(0, 0.5, len(table))
        return table.assign(**dict.fromkeys(OF_POINTS, strength))

    scorer = fit_match_scorer(with_points(judged(900, 0)), SETTINGS)
    assert scorer is not None
    alone = scorer.without_points
    assert alone is not None
    assert set(alone.coefficients) == {"lead", "detector_score"}
    queries = [f"q{number}" for number in range(300)]
    seen = judged(900, 1).assign(**dict.fromkeys(OF_POINTS, 0.0))
    error, error_alone = (
        match_quality(seen, kind, queries, SETTINGS.removed_share, PLAN).calibration_error
        for kind in (scorer, alone)
    )
    assert error_alone < 0.05
    assert error > 2 * error_alone


def test_the_more_products_are_missing_the_lower_the_scores() -> None:
    seldom, often = (
        fit_match_scorer(judged(300, 0), MatchSettings(share, 0.05)) for share in (0.0, 0.6)
    )
    assert seldom is not None
    assert often is not None
    evidence = {"lead": np.linspace(-2, 2, 9), "detector_score": np.ones(9)}
    assert (often.scores(evidence) < seldom.scores(evidence)).all()


def test_a_wrong_answer_need_not_mean_that_the_product_is_missing() -> None:
    """Sisters are mistaken for each other, but nothing looks like a missing product."""
    generator = np.random.default_rng(4)
    rows = []
    for box in range(400):
        right = bool(generator.random() < 0.5)
        near = generator.normal(1.0, 0.3)
        rows.append((box, 1, right, PRESENT, generator.normal(2.0 * right, 0.5), near))
        rows.append((box, 1, False, REMOVED, generator.normal(0.0, 0.5), near - 1.5))
    columns = ["query", "rank", "right", "case", "lead", "similarity"]
    table = pd.DataFrame(rows, columns=columns)
    scorer = fit_match_scorer(table, SETTINGS)
    assert scorer is not None
    missing = scorer.missing({name: table[name].to_numpy() for name in ("lead", "similarity")})
    assert missing[table["case"] == REMOVED].mean() > 0.95
    assert missing[table["case"] == PRESENT].mean() == pytest.approx(0.05, abs=0.01)
    wrong = (table["case"] == PRESENT) & ~table["right"]
    assert missing[wrong].mean() < 0.1


def test_nothing_is_fitted_if_every_answer_is_right() -> None:
    table = judged(30, 0)
    assert fit_match_scorer(table[table["right"]], SETTINGS) is None


def test_queries_without_boxes_are_judged_and_fit_nothing(searcher: Searcher) -> None:
    no_box = QueryBoxes(np.arange(0), np.empty((0, 4), np.float32), np.empty(0, np.float32))
    vectors = np.empty((0, 3), np.float32)
    queries = QueryVectors(["a"], [no_box], vectors, np.ones((1, 3), np.float32))
    table = judge_answers(searcher, queries, {"image": 1.0}, [[]])
    assert len(table) == 0
    assert fit_match_scorer(table, SETTINGS) is None


def test_reliability_against_a_loop() -> None:
    generator = np.random.default_rng(3)
    scores, weights = generator.random(200), generator.random(200)
    right = generator.random(200) < scores
    table = reliability(scores, right, weights).set_index("low")
    for low in np.arange(10) / 10:
        inside = [n for n in range(200) if low <= scores[n] < low + 0.1]
        total = sum(weights[n] for n in inside)
        row = table.loc[low]
        assert row["answers"] == pytest.approx(total / weights.sum())
        assert row["score"] == pytest.approx(sum(weights[n] * scores[n] for n in inside) / total)
        assert row["right"] == pytest.approx(sum(weights[n] for n in inside if right[n]) / total)


@pytest.fixture(scope="module")
def searcher() -> Searcher:
    index = faiss.IndexFlatIP(3)
    index.add(
        normalize(np.array([[1, 0, 0], [9, 1, 0], [0, 1, 0], [0, 9, 1], [0, 0, 1], [1, 0, 9]]))
    )
    gallery = GalleryIndex(
        index,
        pd.DataFrame({"id": [f"g{n}" for n in range(6)], "labels": [[name] for name in LABELS]}),
    )
    encoder: Any = SimpleNamespace()  # nothing is encoded here
    settings = SearchSettings(BoxSelection(0.5, 0.5, 8), 100, "best_score")
    return Searcher(encoder, gallery, BlockLayout({"image": 3}), settings)


def test_a_box_is_judged_with_its_product_in_the_gallery_and_without(searcher: Searcher) -> None:
    corners = np.array([[0, 0, 9, 9]] * 3, np.float32)
    boxes = [
        QueryBoxes(np.arange(2), corners[:2], np.array([0.9, 0.8], np.float32)),
        QueryBoxes(np.arange(1), corners[:1], np.array([0.7], np.float32)),
    ]
    vectors = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    queries = QueryVectors(["a", "b"], boxes, vectors, vectors[:2])
    products = [[["rose"], []], [["tulip"]]]
    table = judge_answers(searcher, queries, {"image": 1.0}, products)
    cases = table.groupby(["query", "case"], sort=False)["right"].apply(list).to_dict()
    assert cases == {
        (0, PRESENT): [True, True, False, False, False],
        (0, REMOVED): [False] * 4,  # the gallery without roses has four items
        (0, NOTHING): [False] * 5,
        (1, REMOVED): [False] * 5,  # no tulip in the gallery at all
    }
    first = table[table["rank"] == 1].set_index("case")
    assert first.loc[PRESENT, "similarity"] == pytest.approx(1.0)
    assert first.loc[NOTHING, "detector_score"] == pytest.approx(0.8)
