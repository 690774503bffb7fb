"""Answering with the labels of dev queries that have similar titles."""

import numpy as np

from product1m.evaluation.metrics import GroundTruth
from product1m.evaluation.title_baseline import Titles, nearest_title_rankings

DEV_ANGLES: dict[str, float] = {"d1": 0, "d2": 30, "d3": 40, "d4": 60, "d5": 85, "far": 100}
TRUTH = GroundTruth(
    {
        "d1": ("A", "B", "A"),
        "d2": ("B", "C"),
        "d3": ("B",),
        "d4": ("C",),
        "d5": ("D",),
        "far": ("E",),
        "q": ("A",),
    },
    {"a1": "A", "c1": "C", "b1": "B", "a2": "A", "b2": "B", "e1": "E", "d1": "D"},
)


def titles(angles: dict[str, float]) -> Titles:
    radians = np.radians(list(angles.values()))
    return Titles(list(angles), np.stack([np.cos(radians), np.sin(radians)], 1).astype(np.float32))


def test_the_five_nearest_titles_vote_for_their_labels() -> None:
    # B has cos 0 + cos 30 + cos 40, C has cos 30 + cos 60, A has cos 0, D cos 85; E is the sixth.
    found = nearest_title_rankings(titles({"q": 0.0}), titles(DEV_ANGLES), TRUTH, depth=100)
    assert found == {"q": ["b1", "b2", "c1", "a1", "a2", "d1"]}
    cut = nearest_title_rankings(titles({"q": 0.0}), titles(DEV_ANGLES), TRUTH, depth=2)
    assert cut == {"q": ["b1", "b2"]}


def test_a_dev_query_does_not_see_its_own_labels() -> None:
    angles = {"d1": 0.0, "d4": 60.0}
    found = nearest_title_rankings(titles({"d1": 0.0}), titles(angles), TRUTH, depth=3)
    assert found == {"d1": ["c1"]}
