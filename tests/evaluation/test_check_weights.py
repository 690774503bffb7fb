"""How much checks count: as much as the dev queries say, or nothing."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from product1m.data.texts import Texts
from product1m.evaluation.check_weights import with_checks
from product1m.evaluation.fusion import DevQueries, Fusion, FusionSettings
from product1m.evaluation.metrics import GroundTruth

SETTINGS = FusionSettings(
    ("image",), (0.0, 1.0), 200, 0, (0.0, 0.1, 0.4), (0.0, 1.0), (0.0, 2.0), (0.0, 0.5)
)
IDS = [f"q{number}" for number in range(8)]
TRUTH = GroundTruth(dict.fromkeys(IDS, ("rose",)), {"right": "rose", "wrong": "lily"})
FUSION = Fusion({"image": 1.0}, {"image": 1.0}, 0.5, pd.DataFrame())


class Ranking:
    """Ranks right answers first only for the weights that help; counts nothing itself."""

    def __init__(self, helping: tuple[float, ...], check: str) -> None:
        self.helping, self.check = helping, check

    def rank(self, queries: Any, weights: Mapping[str, float], *_: object) -> dict[str, list[str]]:
        low, high = min(self.helping, default=9.0), max(self.helping, default=0.0)
        right_first = low <= weights.get(self.check, 0.0) <= high
        order = ["right", "wrong"] if right_first else ["wrong", "right"]
        return dict.fromkeys(queries.query_ids, order)


def chosen(helping: tuple[float, ...], shared: object = "counts", check: str = "points") -> Fusion:
    queries: Any = SimpleNamespace(shared=shared, query_ids=IDS, select=lambda _: queries)
    searcher: Any = Ranking(helping, check)
    dev = DevQueries(list(range(len(IDS))), IDS, Texts(["right", "wrong"]), TRUTH, "best_score")
    return with_checks(FUSION, searcher, queries, dev, SETTINGS, whole_photo=False)


def test_the_weight_is_the_one_that_the_dev_queries_elect() -> None:
    fusion = chosen((0.1,))
    assert fusion.weights == {"image": 1.0, "points": 0.1}
    tried = [trial for trial in fusion.check_trials if "points" in trial]
    assert tried == [
        {"points": points, "colors": colors, "dev_map": 1.0 if points == 0.1 else 0.5}
        for points in (0.0, 0.1, 0.4)
        for colors in (0.0, 1.0)
    ]
    assert fusion.dev_map_at_10 == 1.0


def test_of_weights_that_rank_equally_the_smallest_is_taken() -> None:
    assert chosen((0.1, 0.4)).weights["points"] == pytest.approx(0.1)


def test_points_that_help_no_dev_query_get_no_weight() -> None:
    fusion = chosen(())
    assert fusion.weights == FUSION.weights
    assert {trial["dev_map"] for trial in fusion.check_trials} == {0.5}


def test_photos_without_points_are_not_checked_by_them() -> None:
    fusion = chosen((0.1,), shared=None)
    assert fusion.weights == FUSION.weights
    assert [trial.get("neighbors") for trial in fusion.check_trials] == [0.0, 2.0]


def test_patterns_of_color_are_tried_only_if_points_count() -> None:
    # Only points help here, so colors and patterns count nothing beside them.
    tried = [trial["pattern"] for trial in chosen((0.1,)).check_trials if "pattern" in trial]
    assert tried == [0.0, 0.5]
    assert not any("pattern" in trial for trial in chosen(()).check_trials)
    assert chosen((0.5,), check="pattern").weights == FUSION.weights


def test_neighbors_get_the_weight_that_the_dev_queries_elect() -> None:
    assert chosen((2.0,), check="neighbors").weights == {"image": 1.0, "neighbors": 2.0}
