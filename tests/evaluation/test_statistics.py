"""Intervals against enumeration and theory."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from product1m.errors import RetrievalError
from product1m.evaluation import statistics
from product1m.evaluation.statistics import (
    BootstrapPlan,
    Interval,
    bootstrap_interval,
    bootstrap_intervals,
    bootstrap_ratios,
    paired_difference,
    signed,
    with_groups,
)

PLAN = BootstrapPlan(num_bootstrap=2000, confidence=0.95, seed=0)


def test_an_interval_equals_the_enumeration_of_every_resample() -> None:
    values = np.array([0.0, 0.11, 0.23, 0.94, 0.57])
    means = sorted(np.mean(drawn) for drawn in itertools.product(values, repeat=len(values)))
    expected = np.quantile(means, [0.1, 0.9])
    interval = bootstrap_interval(
        values, BootstrapPlan(num_bootstrap=40_000, confidence=0.8, seed=0)
    )
    assert interval.mean == pytest.approx(np.mean(values))
    assert (interval.low, interval.high) == pytest.approx(tuple(expected), abs=0.01)


def test_queries_with_the_same_labels_are_drawn_together() -> None:
    values = pd.Series([0.0, 0.4, 0.9, 0.3], ["q1", "q2", "q3", "q4"])
    labels = {"q1": ("rose", "mint"), "q2": ("fig",), "q3": ("mint", "rose"), "q4": ("fig", "fig")}
    plan = BootstrapPlan(num_bootstrap=40_000, confidence=0.8, seed=0).for_labels(labels)
    groups = [[0.0, 0.9], [0.4], [0.3]]
    means = [
        np.mean([value for group in drawn for value in group])
        for drawn in itertools.product(groups, repeat=3)
    ]
    interval = bootstrap_interval(values, plan)
    assert interval.mean == pytest.approx(0.4)
    assert (interval.low, interval.high) == pytest.approx(
        tuple(np.quantile(means, [0.1, 0.9])), abs=0.01
    )
    # The same from the order in which a file happens to hold the queries, and from a recording.
    scores = with_groups(values.rename_axis("query_id").reset_index(name="ap"), plan)
    assert bootstrap_interval(values, PLAN.as_recorded(scores)) == bootstrap_interval(
        values, PLAN.for_labels(labels)
    )
    alone = {query: (query,) for query in values.index}
    assert bootstrap_interval(values, PLAN.for_labels(alone)) == bootstrap_interval(values, PLAN)


def test_the_interval_of_a_quotient_draws_groups_too() -> None:
    counts = pd.DataFrame({"found": [1, 0, 3], "products": [2, 1, 3]}, ["q1", "q2", "q3"])
    plan = replace(PLAN, confidence=0.5).for_labels({"q1": "a", "q2": "a", "q3": "b"})
    interval = bootstrap_ratios(counts, {"share": ("found", "products")}, plan)["share"]
    assert interval.mean == pytest.approx(4 / 6)
    # Two groups: 1 of 3 and 3 of 3; a quarter each drawn twice, half of all both.
    assert (interval.low, interval.high) == pytest.approx((4 / 6, 4 / 6), abs=0.35)
    assert {interval.low, interval.high} <= {1 / 3, 4 / 6, 1.0}


def test_an_interval_of_many_values_is_the_normal_one() -> None:
    values = np.random.default_rng(5).normal(0.3, 0.2, 3000)
    margin = 1.96 * values.std() / np.sqrt(len(values))
    interval = bootstrap_interval(values, PLAN)
    assert interval.low == pytest.approx(values.mean() - margin, abs=0.1 * margin)
    assert interval.high == pytest.approx(values.mean() + margin, abs=0.1 * margin)


def test_intervals_repeat_with_the_seed_and_move_with_another() -> None:
    values = np.random.default_rng(0).random(50)
    assert bootstrap_interval(values, PLAN) == bootstrap_interval(values, PLAN)
    assert bootstrap_interval(values, PLAN) != bootstrap_interval(values, replace(PLAN, seed=1))


def test_many_columns_give_what_each_gives_alone() -> None:
    table = pd.DataFrame(np.random.default_rng(0).random((40, 3)), columns=["a", "b", "c"])
    together = bootstrap_intervals(table, PLAN)
    for name in ("a", "b", "c"):
        alone = bootstrap_interval(table[name], PLAN)
        assert together[name].as_dict() == pytest.approx(alone.as_dict())


def test_drawing_in_bounded_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random(70)
    plan = replace(PLAN, num_bootstrap=501)
    whole = bootstrap_interval(values, plan)
    monkeypatch.setattr(statistics, "_CHUNK", 700)
    assert bootstrap_interval(values, plan).as_dict() == pytest.approx(whole.as_dict())


def test_a_constant_lead_is_certain_however_noisy_the_scores() -> None:
    ids = [f"q{n}" for n in range(30)]
    other = pd.Series(np.random.default_rng(0).random(30), ids)
    ours = (other + 0.05).iloc[::-1]  # aligned by query, not by position
    assert paired_difference(ours, other, PLAN).as_dict() == pytest.approx(
        {"mean": 0.05, "low": 0.05, "high": 0.05}
    )
    assert paired_difference(ours, other, PLAN).above_zero
    assert not paired_difference(other, other, PLAN).above_zero


def test_a_paired_difference_needs_the_same_queries_each_once() -> None:
    ours = pd.Series([0.1, 0.2], ["q1", "q2"])
    with pytest.raises(RetrievalError, match="2 against 2, 2 on one side only, for example 'q2'"):
        paired_difference(ours, pd.Series([0.1, 0.2], ["q1", "q3"]), PLAN)
    with pytest.raises(RetrievalError, match="each once: 3 against 2"):
        paired_difference(pd.Series([0.1, 0.2, 0.3], ["q1", "q2", "q2"]), ours, PLAN)


@pytest.mark.parametrize("values", [[], [0.1, float("nan")]])
def test_no_values_and_values_that_are_none_have_no_interval(values: list[float]) -> None:
    with pytest.raises(RetrievalError, match="needs one finite value per query"):
        bootstrap_interval(np.array(values), PLAN)


def test_intervals_are_written_with_three_digits_and_differences_with_signs() -> None:
    assert str(Interval(0.4213, 0.38, 0.46951)) == "0.421 [0.380, 0.470]"
    assert Interval(0.01, -0.0004, 0.02).signed == "+0.010 [+0.000, +0.020]"
    assert signed(-0.0121) == "-0.012"
