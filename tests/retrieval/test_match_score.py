"""Match scores and the evidence behind them, against plain loops over a small gallery."""

import faiss
import numpy as np
import pandas as pd
import pytest

from product1m.data.vectors import normalize
from product1m.retrieval.embedding import BlockLayout
from product1m.retrieval.evidence import describe_answers
from product1m.retrieval.index import GalleryIndex
from product1m.retrieval.match_score import MatchScorer

LAYOUT = BlockLayout({"image": 4, "text": 3, "joint": 2})
WEIGHTS = {"image": 1.0, "text": 0.5, "joint": 0.0}
LABELS = [["rose"], ["rose"], ["lily"], [], [], ["lily"]]


def blocks(rows: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    widths = LAYOUT.widths.values()
    return np.concatenate(
        [normalize(generator.standard_normal((rows, width))) for width in widths], axis=1
    )


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return blocks(len(LABELS), 0)


@pytest.fixture(scope="module")
def gallery(vectors: np.ndarray) -> GalleryIndex:
    index = faiss.IndexFlatIP(LAYOUT.dim)
    index.add(vectors)
    ids = [f"g{number}" for number in range(len(LABELS))]
    return GalleryIndex(index, pd.DataFrame({"id": ids, "labels": LABELS}))


def weighted_mean(first: np.ndarray, second: np.ndarray) -> float:
    return float(first[:4] @ second[:4] + 0.5 * first[4:7] @ second[4:7]) / 1.5


def test_evidence_compares_an_answer_with_the_other_products(
    gallery: GalleryIndex, vectors: np.ndarray
) -> None:
    (query,) = blocks(1, 1)
    _, (positions,) = gallery.search(query[None] * LAYOUT.scale(WEIGHTS), len(LABELS))
    strengths = np.array([0.5, 2.0, 0.0, 1.0, 0.0, 0.25])
    agreements = strengths[::-1] / 2
    checks = strengths, agreements
    evidence = describe_answers(query, 0.75, positions, *checks, gallery, LAYOUT, WEIGHTS)
    # Items without a label are products of their own.
    product = ["rose", "rose", "lily", "g3", "g4", "lily"]
    strength_of = dict(zip(positions.tolist(), strengths.tolist(), strict=True))
    agreement_of = dict(zip(positions.tolist(), agreements.tolist(), strict=True))
    for place, item in enumerate(positions.tolist()):
        others = [other for other in range(len(LABELS)) if product[other] != product[item]]
        own = weighted_mean(query, vectors[item])
        rival = max(weighted_mean(query, vectors[other]) for other in others)
        look_alike = max(weighted_mean(vectors[item], vectors[other]) for other in others)
        expected = {
            "similarity": own,
            "lead": own - rival,
            "distinct": own - look_alike,
            "points": strength_of[item],
            "points_lead": strength_of[item] - max(strength_of[other] for other in others),
            "pattern": agreement_of[item],
            "pattern_lead": agreement_of[item] - max(agreement_of[other] for other in others),
            "first": float(place == 0),
            "detector_score": 0.75,
            "cosine_image": float(query[:4] @ vectors[item][:4]),
            "cosine_text": float(query[4:7] @ vectors[item][4:7]),
        }
        assert {name: values[place] for name, values in evidence.items()} == pytest.approx(
            expected, abs=1e-5
        )


def test_a_gallery_of_one_product_has_no_rivals(vectors: np.ndarray) -> None:
    index = faiss.IndexFlatIP(LAYOUT.dim)
    index.add(vectors[:2])
    alone = GalleryIndex(index, pd.DataFrame({"id": ["a", "b"], "labels": [["rose"], ["rose"]]}))
    checks = np.arange(2), np.zeros(2), np.zeros(2)
    evidence = describe_answers(vectors[0], 1.0, *checks, alone, LAYOUT, WEIGHTS)
    assert all(np.isfinite(values).all() for values in evidence.values())


def test_a_match_score_is_the_logistic_function_of_the_evidence() -> None:
    scorer = MatchScorer(coefficients={"lead": 2.0, "first": -1.0}, intercept=0.5, threshold=0.6)
    evidence = {"lead": np.array([0.25, -400.0]), "first": np.array([1.0, 0.0])}
    scores = scorer.scores(evidence | {"unused": np.array([np.nan, np.nan])})
    assert scores == pytest.approx([0.5, 0.0], abs=1e-9)  # 0.5 - 1 + 0.5 = 0


@pytest.mark.parametrize(("first", "there"), [(0.41, True), (0.4, False)])
def test_the_first_answer_decides_whether_the_catalogue_has_the_product(
    first: float, there: bool
) -> None:
    by_lead = {"coefficients": {"lead": 1.0}, "intercept": 0.0}
    by_similarity = {"coefficients": {"similarity": 1.0}, "intercept": 0.0}
    threshold = 1 / (1 + np.exp(-0.405))
    evidence = {"similarity": np.array([first, 9.0]), "lead": np.array([-5.0, 5.0])}
    scorer = MatchScorer.model_validate(
        {**by_lead, "presence": by_similarity, "threshold": threshold}
    )
    assert scorer.in_catalogue(evidence) is there
    # A model of an earlier version has one function.
    scorer = MatchScorer.model_validate({**by_similarity, "threshold": threshold})
    assert scorer.in_catalogue(evidence) is there


def test_a_box_without_answers_says_nothing_about_the_catalogue() -> None:
    scorer = MatchScorer(coefficients={"lead": 1.0}, intercept=0, threshold=0.5)
    assert scorer.in_catalogue({"lead": np.empty(0)}) is None
