"""Names of the metrics, bootstrap intervals over queries, and how an interval is written.

Queries that ask for the same products are not independent: a model that finds one of them finds
most of the others. A plan with groups draws queries with the same labels together. An interval says
how much a figure depends on the queries that were asked; it says nothing about another training
seed or other training data.
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
"""Column of one query's scores to the name of its mean over the queries (released code)."""
METRICS = tuple(METRIC_NAMES.values())
MAIN_DEPTH = 10
"""Rankings are cut here for the metric that decides: block weights, report, gate (ours)."""
MAIN_METRIC = f"strict mAP@{MAIN_DEPTH}"
GROUP = "group"
"""Column of the scores per query: queries with the same number have the same labels."""
_CHUNK = 1 << 20


@dataclass(frozen=True)
class BootstrapPlan:
    """How bootstrap intervals are computed."""

    num_bootstrap: int
    """Resamples of the groups."""
    confidence: float
    """Share of the resampled means inside the interval."""
    seed: int
    """Seed of the resampling; the same seed and number of groups give the same resamples."""
    groups: Mapping[str, int] = field(default_factory=dict)
    """Query to the number of its group, which is drawn as a whole; a query that is not here is a
    group of its own."""

    @classmethod
    def from_config(cls, config: EvaluationConfig) -> "BootstrapPlan":
        """The settings in a configuration section."""
        return cls(config.num_bootstrap, config.confidence, config.seed)

    def for_labels(self, query_labels: Mapping[str, Sequence[str]]) -> "BootstrapPlan":
        """The same plan with one group for all queries of the same labels, whatever their order.

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
        """The same plan with the groups that `with_groups` recorded; without that column none."""
        if GROUP not in scores:
            return self
        rows = scores.dropna(subset=[GROUP])
        numbers = rows[GROUP].astype(int)
        return replace(self, groups=dict(zip(rows["query_id"], numbers.tolist(), strict=True)))

    def group_of(self, queries: Iterable[Any]) -> Int[np.ndarray, " Q"]:
        """Group of each query, numbered from 0 in the order in which they appear."""
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
        """As a difference is written: `+0.010 [-0.002, +0.020]`."""
        mean, low, high = (signed(value) for value in (self.mean, self.low, self.high))
        return f"{mean} [{low}, {high}]"

    def as_dict(self) -> dict[str, float]:
        """As in `metrics.json`."""
        return {"mean": self.mean, "low": self.low, "high": self.high}


def signed(value: float) -> str:
    """A difference with its sign; a rounded -0 is +0."""
    return f"{round(value, 3) + 0.0:+.3f}"


def bootstrap_interval(
    values: Float[np.ndarray, " Q"] | pd.Series, plan: BootstrapPlan
) -> Interval:
    """Interval of the mean of one value per query; groups are drawn with replacement.

    A series has query ids as its index; the queries of an array are all groups of their own.
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
    """Intervals of quotients of sums over the queries, such as products found of all products.

    Args:
        counts: one row per query, whose id is the index.
        ratios: name to the columns of numerator and denominator; one whose denominators are all
            zero is left out.
        plan: resamples groups, the same ones for every quotient.
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
