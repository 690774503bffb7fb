"""How much shared points count: as much as the dev queries say, or nothing."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from product1m.evaluation.fusion import DevQueries, Fusion, FusionSettings
from product1m.evaluation.metrics import GroundTruth
from product1m.evaluation.points_weight import with_points

SETTINGS = FusionSettings(("image",), (0.0, 1.0), 200, 0, (0.0, 0.1, 0.4))
IDS = [f"q{number}" for number in range(8)]
TRUTH = GroundTruth(dict.fromkeys(IDS, ("rose",)), {"right": "rose", "wrong": "lily"})
FUSION = Fusion({"image": 1.0}, {"image": 1.0}, 0.5, pd.DataFrame())


class Ranking:
    """Ranks right answers first only for the weights that help; counts nothing itself."""

    def __init__(self, helping: tuple[float, ...]) -> None:
        self.helping = helping

    def rank(self, queries: Any, weights: Mapping[str, float], *_: object) -> dict[str, list[str]]:
        low, high = min(self.helping, default=9.0), max(self.helping, default=0.0)
        right_first = low <= weights["points"] <= high
        order = ["right", "wrong"] if right_first else ["wrong", "right"]
        return dict.fromkeys(queries.query_ids, order)


def chosen(helping: tuple[float, ...], shared: object = "counts") -> Fusion:
    queries: Any = SimpleNamespace(shared=shared, query_ids=IDS, select=lambda _: queries)
    searcher: Any = Ranking(helping)
    dev = DevQueries(list(range(len(IDS))), IDS, ["right", "wrong"], TRUTH, "best_score")
    return with_points(FUSION, searcher, queries, dev, SETTINGS, whole_photo=False)


def test_the_weight_is_the_one_that_the_dev_queries_elect() -> None:
    fusion = chosen((0.1,))
    assert fusion.weights == {"image": 1.0, "points": 0.1}
    assert fusion.points_trials == {0.0: 0.5, 0.1: 1.0, 0.4: 0.5}
    assert fusion.dev_map_at_10 == 1.0


def test_of_weights_that_rank_equally_the_smallest_is_taken() -> None:
    assert chosen((0.1, 0.4)).weights["points"] == pytest.approx(0.1)


def test_points_that_help_no_dev_query_get_no_weight() -> None:
    fusion = chosen(())
    assert fusion.weights == FUSION.weights
    assert set(np.array(list(fusion.points_trials.values()))) == {0.5}


def test_photos_without_points_leave_the_fusion_as_it_is() -> None:
    assert chosen((0.1,), shared=None) is FUSION
