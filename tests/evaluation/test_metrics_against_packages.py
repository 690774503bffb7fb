"""Both definitions of mAP beside what public packages call average precision.

`strict` is the AP@N of trec_eval as long as no query has more than N relevant items, `official` the
average precision of scikit-learn on the first N as long as every query has at least N.
"""

from typing import Any

import ir_measures
import numpy as np
import pytest
from ir_measures import AP, P
from sklearn.metrics import average_precision_score

from product1m.evaluation.metrics import GroundTruth, score_queries

NUM_QUERIES, DEPTH = 60, 10


def random_lists(
    items_per_class: int, num_classes: int
) -> tuple[GroundTruth, dict[str, list[str]]]:
    """Queries for one or two classes, whose items come early in the ranking more often than not."""
    generator = np.random.default_rng(items_per_class)
    labels = [f"c{number}" for number in range(num_classes)]
    gallery = {f"{label}-{n}": label for label in labels for n in range(items_per_class)}
    items = np.array(list(gallery))
    queries, rankings = {}, {}
    for number in range(NUM_QUERIES):
        asked = generator.choice(labels, generator.integers(1, 3), replace=False).tolist()
        relevant = np.isin([gallery[item] for item in items], asked)
        order = np.argsort(generator.random(len(items)) - 0.2 * relevant)
        queries[f"q{number}"] = tuple(asked)
        rankings[f"q{number}"] = items[order][:25].tolist()
    return GroundTruth(queries, gallery), rankings


def test_strict_equals_trec_eval_where_ten_items_can_hold_every_relevant_one() -> None:
    truth, rankings = random_lists(items_per_class=5, num_classes=12)
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
    truth, rankings = random_lists(items_per_class=12, num_classes=6)
    scores = score_queries(rankings, truth, "official", [DEPTH]).set_index("query_id")
    for query, ranking in rankings.items():
        hits = [truth.gallery_label[item] in truth.query_labels[query] for item in ranking[:DEPTH]]
        expected = average_precision_score(hits, -np.arange(DEPTH)) if any(hits) else 0.0
        assert scores["ap"][query] == pytest.approx(expected)
    assert 0.1 < scores["ap"].mean() < 0.9
