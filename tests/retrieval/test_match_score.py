"""Match scores and the evidence behind them, against plain loops over a small gallery."""

import faiss
import numpy as np
import pandas as pd
import pytest

from product1m.retrieval.embedding import BlockLayout, normalize
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


def weighted_mean(one: np.ndarray, other: np.ndarray) -> float:
    return float(one[:4] @ other[:4] + 0.5 * one[4:7] @ other[4:7]) / 1.5


def test_evidence_compares_an_answer_with_the_other_products(
    gallery: GalleryIndex, vectors: np.ndarray
) -> None:
    (query,) = blocks(1, 1)
    weighted, positions = gallery.search(query[None] * LAYOUT.scale(WEIGHTS), len(LABELS))
    evidence = describe_answers(query, 0.75, positions[0], weighted[0], gallery, LAYOUT, WEIGHTS)
    # Items without a label are products of their own.
    product = ["rose", "rose", "lily", "g3", "g4", "lily"]
    for place, item in enumerate(positions[0]):
        others = [other for other in range(len(LABELS)) if product[other] != product[item]]
        own = weighted_mean(query, vectors[item])
        rival = max(weighted_mean(query, vectors[other]) for other in others)
        look_alike = max(weighted_mean(vectors[item], vectors[other]) for other in others)
        expected = {
            "similarity": own,
            "lead": own - rival,
            "distinct": own - look_alike,
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
    weighted, positions = alone.search(vectors[:1] * LAYOUT.scale(WEIGHTS), 2)
    evidence = describe_answers(vectors[0], 1.0, positions[0], weighted[0], alone, LAYOUT, WEIGHTS)
    assert all(np.isfinite(values).all() for values in evidence.values())


def test_a_match_score_is_the_logistic_function_of_the_evidence() -> None:
    scorer = MatchScorer(coefficients={"lead": 2.0, "first": -1.0}, intercept=0.5, threshold=0.6)
    evidence = {"lead": np.array([0.25, -400.0]), "first": np.array([1.0, 0.0])}
    scores = scorer.scores(evidence | {"unused": np.array([np.nan, np.nan])})
    assert scores == pytest.approx([0.5, 0.0], abs=1e-9)  # 0.5 - 1 + 0.5 = 0


@pytest.mark.parametrize(("scores", "there"), [([0.6, 0.1], True), ([0.59, 0.9], False)])
def test_the_first_answer_decides_whether_the_catalogue_has_it(
    scores: list[float], there: bool
) -> None:
    scorer = MatchScorer(coefficients={}, intercept=0, threshold=0.6)
    assert scorer.in_catalogue(scores) is there
