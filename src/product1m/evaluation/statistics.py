"""Names of the metrics, bootstrap intervals over queries, and the format of intervals.

Queries with the same products are not independent: a model that finds the products of one query
finds most of the others too. A plan with groups draws queries with the same labels together. An
interval says how much a figure depends on the choice of queries; it says nothing about another
training seed or other training data.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from product1m.config import EvaluationConfig
from product1m.errors import RetrievalError

METRIC_NAMES: Mapping[str, str] = {"ap": "mAP", "recall": "mAR", "precision": "Prec"}
"""Name of the mean over queries, by column of the scores per query (released code)."""
METRICS = tuple(METRIC_NAMES.values())
MAIN_DEPTH = 10
"""Ranking depth of the main metric, which decides on block weights, report and gate (ours)."""
MAIN_METRIC = f"strict mAP@{MAIN_DEPTH}"
GROUP = "group"
"""Column of the scores per query: queries with the same number have the same labels."""
_CHUNK = 1 << 20


@dataclass(frozen=True)
class BootstrapPlan:
    """How bootstrap intervals are computed."""

    num_bootstrap: int
    """Number of resamples of the groups."""
    confidence: float
    """Share of the resampled means inside the interval."""
    seed: int
    """Seed of the resampling; the same seed and number of groups give the same resamples."""
    groups: Mapping[str, int] = field(default_factory=dict)
    """Number of each query's group, which is drawn as a whole; a query that is missing here is a
    group of its own."""

    @classmethod
    def from_config(cls, config: EvaluationConfig) -> "BootstrapPlan":
        """The settings in a configuration section."""
        return cls(config.num_bootstrap, config.confidence, config.seed)

    def for_labels(self, query_labels: Mapping[str, Sequence[str]]) -> "BootstrapPlan":
        """The same plan with one group for all queries with the same labels, in any order.

        Args:
            query_labels: labels by query id, with repeats.
        """
        numbers: dict[tuple[str, ...], int] = {}
        groups = {
            query: numbers.setdefault(tuple(sorted(labels)), len(numbers))
            for query, labels in query_labels.items()
            if labels
        }
        return replace(self, groups=groups)

    def as_recorded(self, scores: pd.DataFrame) -> "BootstrapPlan":
        """The same plan with the groups that `with_groups` recorded, if any."""
        if GROUP not in scores:
            return self
        rows = scores.dropna(subset=[GROUP])
        numbers = rows[GROUP].astype(int)
        return replace(self, groups=dict(zip(rows["query_id"], numbers.tolist(), strict=True)))

    def group_of(self, queries: Iterable[Any]) -> Int[np.ndarray, " Q"]:
        """Group of each query, numbered from 0 in order of appearance."""
        named = [self.groups.get(query, str(query)) for query in queries]
        numbers = {group: number for number, group in enumerate(dict.fromkeys(named))}
        return np.array([numbers[group] for group in named], np.int64)


def with_groups(scores: pd.DataFrame, plan: BootstrapPlan) -> pd.DataFrame:
    """Scores by `query_id` with each query's group, so that `as_recorded` draws as `plan` does."""
    return scores.assign(**{GROUP: scores["query_id"].map(plan.groups).astype("Int64")})


@dataclass(frozen=True)
class Interval:
    """A mean over queries and its percentile bootstrap interval."""

    mean: float
    low: float
    high: float

    @property
    def above_zero(self) -> bool:
        """Whether the whole interval is above zero."""
        return self.low > 0

    def __str__(self) -> str:
        """`0.123 [0.100, 0.140]`."""
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"

    @property
    def signed(self) -> str:
        """Format of a difference: `+0.010 [-0.002, +0.020]`."""
        mean, low, high = (signed(value) for value in (self.mean, self.low, self.high))
        return f"{mean} [{low}, {high}]"

    def as_dict(self) -> dict[str, float]:
        """The values in `metrics.json`."""
        return {"mean": self.mean, "low": self.low, "high": self.high}


def signed(value: float) -> str:
    """A difference with its sign; a rounded -0 is +0."""
    return f"{round(value, 3) + 0.0:+.3f}"


def bootstrap_interval(
    values: Float[np.ndarray, " Q"] | pd.Series, plan: BootstrapPlan
) -> Interval:
    """Interval of the mean of one value per query; groups are drawn with replacement.

    A series has query ids as its index; in an array, each query is a group of its own.
    """
    return bootstrap_intervals(pd.DataFrame({"value": values}), plan)["value"]


def bootstrap_intervals(values: pd.DataFrame, plan: BootstrapPlan) -> dict[str, Interval]:
    """Interval of each column's mean; one row per query, all columns use the same resamples.

    The index of `values` is the query id. Means are over queries, so a group counts as often as it
    has queries.
    """
    table = values.to_numpy(np.float64)
    if len(table) == 0 or not np.isfinite(table).all():
        raise RetrievalError(
            f"an interval over {len(table)} queries needs one finite value per query and column; "
            f"columns: {', '.join(map(str, values.columns))}"
        )
    means = _resampled_means(values, plan)
    tail = (1 - plan.confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return {
        str(name): Interval(float(mean), float(lower), float(upper))
        for name, mean, lower, upper in zip(
            values.columns, table.mean(axis=0), low, high, strict=True
        )
    }


def bootstrap_ratios(
    counts: pd.DataFrame, ratios: Mapping[str, tuple[str, str]], plan: BootstrapPlan
) -> dict[str, Interval]:
    """Intervals of ratios of sums over the queries, such as products found of all products.

    Args:
        counts: one row per query; the index is the query id.
        ratios: columns of numerator and denominator by name; a ratio is left out if all its
            denominators are zero.
        plan: resamples groups, the same ones for every ratio.
    """
    table = counts.to_numpy(np.float64)
    means, columns = _resampled_means(counts, plan), list(counts.columns)
    tail = (1 - plan.confidence) / 2
    intervals = {}
    for name, (numerator, denominator) in ratios.items():
        over, under = columns.index(numerator), columns.index(denominator)
        if not table[:, under].any():
            continue
        drawn = means[means[:, under] != 0]
        low, high = np.quantile(drawn[:, over] / drawn[:, under], [tail, 1 - tail])
        share = table[:, over].sum() / table[:, under].sum()
        intervals[name] = Interval(float(share), float(low), float(high))
    return intervals


def paired_difference(ours: pd.Series, other: pd.Series, plan: BootstrapPlan) -> Interval:
    """Interval of the mean of `ours - other`; both hold one value per query id.

    Raises RetrievalError if the two do not hold the same queries.
    """
    alone = ours.index.symmetric_difference(other.index)
    if len(alone) or not ours.index.is_unique or len(ours) != len(other):
        raise RetrievalError(
            f"a paired difference needs the same queries on both sides, each once: "
            f"{len(ours)} against {len(other)}, {len(alone)} on one side only"
            + (f", for example {alone[0]!r}" if len(alone) else "")
        )
    return bootstrap_interval(ours - other.reindex(ours.index), plan)


def _resampled_means(table: pd.DataFrame, plan: BootstrapPlan) -> Float[np.ndarray, "S K"]:
    """Means over the queries of the groups that each resample draws."""
    generator = np.random.default_rng(plan.seed)
    groups = plan.group_of(table.index)
    num_groups = int(groups.max()) + 1
    sizes = np.bincount(groups).astype(np.float64)
    sums = np.zeros((num_groups, table.shape[1]))
    np.add.at(sums, groups, table.to_numpy(np.float64))
    chunk = max(1, _CHUNK // num_groups)  # bounds memory, whatever the number of groups
    means = []
    for start in range(0, plan.num_bootstrap, chunk):
        size = min(chunk, plan.num_bootstrap - start)
        drawn = generator.integers(num_groups, size=(size, num_groups))
        drawn += np.arange(size)[:, None] * num_groups
        counts = np.bincount(drawn.ravel(), minlength=size * num_groups)
        counts = counts.reshape(size, num_groups)
        means.append(counts @ sums / (counts @ sizes)[:, None])
    return np.concatenate(means)
