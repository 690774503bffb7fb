"""First answers in the order that shared points give them."""

import faiss
import numpy as np
import pandas as pd
import pytest

from product1m.errors import RetrievalError
from product1m.retrieval.checking import Nearest, check_answers, compare_with_best, share_answers
from product1m.retrieval.embedding import BlockLayout
from product1m.retrieval.index import GalleryIndex

BLOCKS = {"image": 1.0, "text": 0.5}
COUNTS = {(0, 3): (7.0, 0.0, 0.0), (1, 6): (1.0, 20.0, -0.5)}


def count(place: int, positions: np.ndarray) -> np.ndarray:
    return np.array([COUNTS.get((place, int(row)), (0.0, 0.0, 0.0)) for row in positions])


def nearest() -> Nearest:
    scores = np.array([[1.0, 0.9, 0.8, 0.7], [0.5, 0.45, -9, -9]], np.float32)
    return Nearest(scores, np.array([[7, 3, 5, 2], [4, 6, -1, -1]]))


def test_shared_points_add_the_logarithm_of_their_number_to_the_mean_of_cosines() -> None:
    checked = check_answers(nearest(), {**BLOCKS, "points": 0.1}, count, 3)
    # 7 points: log 8; the sum of cosines is 1.5 times their mean.
    added = 0.1 * 1.5 * np.log(8)
    assert checked.positions.tolist() == [[3, 7, 5, 2], [6, 4, -1, -1]]
    np.testing.assert_allclose(checked.scores[0], [0.9 + added, 1.0, 0.8, 0.7], rtol=1e-6)
    np.testing.assert_allclose(checked.scores[1, :2], [0.45 + 0.15 * np.log(2), 0.5], rtol=1e-6)


def test_points_of_other_colors_count_less() -> None:
    weights = {**BLOCKS, "points": 0.1, "colors": 0.5}
    checked = check_answers(nearest(), weights, count, 3)
    # A difference of 20 is one unit, and half of it counts.
    added = 0.15 * np.log(1 + np.exp(-0.5))
    assert checked.positions[1].tolist() == [6, 4, -1, -1]
    assert checked.scores[1, 0] == pytest.approx(0.45 + added)
    assert checked.strengths is not None
    np.testing.assert_allclose(checked.strengths[0], [np.log(8), 0, 0, 0])


def test_the_pattern_of_colors_adds_its_agreement_and_takes_its_disagreement() -> None:
    checked = check_answers(nearest(), {**BLOCKS, "points": 0.1, "pattern": 0.4}, count, 3)
    # The pattern disagrees by half of 0.4 times 1.5, and a single point adds log 2.
    expected = 0.45 + 0.15 * np.log(2) - 0.3
    assert checked.positions[1].tolist() == [4, 6, -1, -1]
    assert checked.scores[1, 1] == pytest.approx(expected)
    assert checked.agreements is not None
    np.testing.assert_allclose(checked.agreements[1], [0, -0.5, 0, 0])


def test_only_the_first_answers_are_checked() -> None:
    checked = check_answers(nearest(), {**BLOCKS, "points": 10.0}, count, 1)
    np.testing.assert_array_equal(checked.positions, nearest().positions)


def test_without_a_weight_nothing_is_counted() -> None:
    given = nearest()
    assert check_answers(given, BLOCKS, None, 3) is given
    assert check_answers(given, {**BLOCKS, "points": 0.0}, None, 3) is given


def test_a_weight_without_points_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(RetrievalError, match="run feature_extraction and indexing again"):
        check_answers(nearest(), {**BLOCKS, "points": 0.1}, None, 3)


VECTORS = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [0, 1]], np.float32)
LAYOUT = BlockLayout({"image": 1, "text": 1})


@pytest.fixture(scope="module")
def gallery() -> GalleryIndex:
    index = faiss.IndexFlatIP(2)
    index.add(VECTORS)
    return GalleryIndex(index, pd.DataFrame({"id": list("abcd")}))


def test_answers_gain_by_their_likeness_to_the_best_two(gallery: GalleryIndex) -> None:
    given = Nearest(
        np.array([[2.0, 1.0, 0.9, 0.8]], np.float32), np.array([[3, 0, 1, 2]], np.int64)
    )
    compared = compare_with_best(given, {**BLOCKS, "neighbors": 0.5}, gallery, LAYOUT)
    expected = {}
    for item, score in zip((3, 0, 1, 2), (2.0, 1.0, 0.9, 0.8), strict=True):
        likeness = [
            VECTORS[item][0] * VECTORS[best][0] + 0.5 * VECTORS[item][1] * VECTORS[best][1]
            for best in (3, 0)
        ]
        # The best count by the third power of their scores: 8 to 1.
        expected[item] = score + 0.5 * (8 * likeness[0] + likeness[1]) / 9
    order = sorted(expected, key=expected.__getitem__, reverse=True)
    assert compared.positions[0].tolist() == order
    np.testing.assert_allclose(compared.scores[0], [expected[item] for item in order], rtol=1e-6)


def test_unused_places_stay_behind_the_answers(gallery: GalleryIndex) -> None:
    given = Nearest(np.array([[0.5, -9, -9]], np.float32), np.array([[2, -1, -1]], np.int64))
    compared = compare_with_best(given, {**BLOCKS, "neighbors": 1.0}, gallery, LAYOUT)
    assert compared.positions.tolist() == [[2, -1, -1]]


def test_without_a_weight_nothing_is_compared(gallery: GalleryIndex) -> None:
    given = nearest()
    assert compare_with_best(given, BLOCKS, gallery, LAYOUT) is given


def test_an_answer_loses_what_another_box_of_its_photo_claims() -> None:
    given = Nearest(
        np.array([[2.0, 1.9, -9], [2.3, 1.2, 1.0], [2.5, 0.1, 0.0]], np.float32),
        np.array([[5, 6, -1], [5, 7, 6], [5, 8, 9]]),
    )
    # The first two boxes are of one photo, the third is alone in its own.
    shared = share_answers(given, {**BLOCKS, "claims": 1.0}, np.array([0, 2, 3]))
    unit = 0.1 * 1.5
    lost = unit * np.log(1 + np.exp((2.3 - 2.0) / unit))
    assert shared.positions.tolist() == [[6, 5, -1], [5, 7, 6], [5, 8, 9]]
    assert shared.scores[0, 1] == pytest.approx(2.0 - lost)
    assert shared.scores[0, 0] == pytest.approx(1.9 - unit * np.log1p(np.exp(-0.9 / unit)))
    assert shared.scores[1, 1] == np.float32(1.2)
    np.testing.assert_array_equal(shared.scores[2], given.scores[2])


def test_a_product_that_a_photo_shows_twice_stays_first_in_both_boxes() -> None:
    given = Nearest(np.array([[2.0, 1.9], [2.0, 1.9]], np.float32), np.array([[5, 6], [5, 6]]))
    shared = share_answers(given, {**BLOCKS, "claims": 1.0}, np.array([0, 2]))
    assert shared.positions.tolist() == given.positions.tolist()
    assert share_answers(given, BLOCKS, np.array([0, 2])) is given
