"""First answers in the order that shared points give them."""

import numpy as np
import pytest

from product1m.errors import RetrievalError
from product1m.retrieval.checking import Nearest, check_answers

BLOCKS = {"image": 1.0, "text": 0.5}
COUNTS = {(0, 7): 0, (0, 3): 10, (0, 5): 2, (1, 4): 3, (1, 6): 4}


def count(place: int, positions: np.ndarray) -> np.ndarray:
    return np.array([COUNTS.get((place, int(row)), 0) for row in positions])


def nearest() -> Nearest:
    scores = np.array([[1.0, 0.9, 0.8, 0.7], [0.5, 0.45, -9, -9]], np.float32)
    return Nearest(scores, np.array([[7, 3, 5, 2], [4, 6, -1, -1]]))


def test_shared_points_add_the_logarithm_of_their_number_to_the_mean_of_cosines() -> None:
    checked = check_answers(nearest(), {**BLOCKS, "points": 0.1}, count, 3)
    # 10 points, 3 of them chance: log 8; the sum of cosines is 1.5 times their mean.
    added = 0.1 * 1.5 * np.log(8)
    assert checked.positions.tolist() == [[3, 7, 5, 2], [6, 4, -1, -1]]
    np.testing.assert_allclose(checked.scores[0], [0.9 + added, 1.0, 0.8, 0.7], rtol=1e-6)
    np.testing.assert_allclose(checked.scores[1, :2], [0.45 + 0.15 * np.log(2), 0.5], rtol=1e-6)


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
