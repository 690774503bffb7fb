"""Both definitions of mAP beside what public packages call average precision.

`strict` is the AP@N of trec_eval and ranx as long as no query has more than N relevant items,
`official` the average precision of torchmetrics and of scikit-learn on the first N as long as every
query has at least N.
"""

from typing import Any

import ir_measures
import numpy as np
import pytest
from ir_measures import AP, P
from sklearn.metrics import average_precision_score

from product1m.evaluation.metrics import Definition, GroundTruth, score_queries
from tests.support.oracles.random_rankings import random_lists

DEPTH = 10
RANX = {"few": 0.26513690476190477, "many": 0.2619855048500882}
TORCHMETRICS = {"few": 0.7688294053077698, "many": 0.895294725894928}
"""Means on the same lists; `benchmarks/metric_packages.py` prints them (ranx 0.3.21, torchmetrics
1.9.0)."""


def lists(kind: str) -> tuple[GroundTruth, dict[str, list[str]]]:
    queries, gallery, rankings = random_lists(kind)
    return GroundTruth(queries, gallery), rankings


def test_strict_equals_trec_eval_where_ten_items_can_hold_every_relevant_one() -> None:
    truth, rankings = lists("few")
    relevant = {
        query: {item: 1 for item, label in truth.gallery_label.items() if label in labels}
        for query, labels in truth.query_labels.items()
    }
    run = {
        query: {item: float(-rank) for rank, item in enumerate(ranking)}
        for query, ranking in rankings.items()
    }
    expected: dict[Any, dict[str, float]] = {AP @ DEPTH: {}, P @ DEPTH: {}}
    for metric in ir_measures.iter_calc(list(expected), relevant, run):
        expected[metric.measure][metric.query_id] = metric.value
    scores = score_queries(rankings, truth, "strict", [DEPTH]).set_index("query_id")
    assert scores["ap"].to_dict() == pytest.approx(expected[AP @ DEPTH])
    assert scores["precision"].to_dict() == pytest.approx(expected[P @ DEPTH])
    assert 0.1 < scores["ap"].mean() < 0.9


def test_official_equals_scikit_learn_on_the_first_ten_where_ten_are_relevant() -> None:
    truth, rankings = lists("many")
    scores = score_queries(rankings, truth, "official", [DEPTH]).set_index("query_id")
    for query, ranking in rankings.items():
        hits = [truth.gallery_label[item] in truth.query_labels[query] for item in ranking[:DEPTH]]
        expected = average_precision_score(hits, -np.arange(DEPTH)) if any(hits) else 0.0
        assert scores["ap"][query] == pytest.approx(expected)
    assert 0.1 < scores["ap"].mean() < 0.9


def mean_ap(kind: str, definition: Definition) -> float:
    truth, rankings = lists(kind)
    return float(score_queries(rankings, truth, definition, [DEPTH])["ap"].mean())


def test_ranx_is_strict_where_ten_items_hold_every_relevant_one_and_lower_elsewhere() -> None:
    assert mean_ap("few", "strict") == pytest.approx(RANX["few"], abs=1e-6)
    assert mean_ap("many", "strict") > RANX["many"] + 0.05


def test_torchmetrics_is_official_where_ten_are_relevant_and_differs_elsewhere() -> None:
    assert mean_ap("many", "official") == pytest.approx(TORCHMETRICS["many"], abs=1e-6)
    assert abs(mean_ap("few", "official") - TORCHMETRICS["few"]) > 1e-3
