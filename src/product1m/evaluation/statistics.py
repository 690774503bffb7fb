"""Names of the metrics, bootstrap intervals over queries, and how an interval is written."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from product1m.config import EvaluationConfig
from product1m.errors import RetrievalError

METRIC_NAMES: Mapping[str, str] = {"ap": "mAP", "recall": "mAR", "precision": "Prec"}
"""Column of one query's scores to the name of its mean over the queries (released code)."""
METRICS = tuple(METRIC_NAMES.values())
MAIN_DEPTH = 10
"""Rankings are cut here for the metric that decides: block weights, report, gate (ours)."""
MAIN_METRIC = f"strict mAP@{MAIN_DEPTH}"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class BootstrapPlan:
    """How bootstrap intervals are computed."""

    num_bootstrap: int
    """Resamples of the queries."""
    confidence: float
    """Share of the resampled means inside the interval."""
    seed: int
    """Seed of the resampling; the same seed and number of queries give the same resamples."""

    @classmethod
    def from_config(cls, config: EvaluationConfig) -> "BootstrapPlan":
        """The values of a configuration."""
        return cls(config.num_bootstrap, config.confidence, config.seed)


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
    """Interval of the mean of one value per query; queries are drawn with replacement."""
    return bootstrap_intervals(pd.DataFrame({"value": np.asarray(values)}), plan)["value"]


def bootstrap_intervals(values: pd.DataFrame, plan: BootstrapPlan) -> dict[str, Interval]:
    """Interval of each column's mean; one row per query, all columns use the same resamples."""
    table = values.to_numpy(np.float64)
    if len(table) == 0 or not np.isfinite(table).all():
        raise RetrievalError(
            f"an interval over {len(table)} queries needs one finite value per query and column; "
            f"columns: {', '.join(map(str, values.columns))}"
        )
    means = _resampled_means(table, plan)
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
        counts: one row per query.
        ratios: name to the columns of numerator and denominator; one whose denominators are all
            zero is left out.
        plan: resamples queries, the same ones for every quotient.
    """
    table = counts.to_numpy(np.float64)
    means, columns = _resampled_means(table, plan), list(counts.columns)
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


def _resampled_means(
    values: Float[np.ndarray, "Q K"], plan: BootstrapPlan
) -> Float[np.ndarray, "S K"]:
    generator = np.random.default_rng(plan.seed)
    num_queries = len(values)
    chunk = max(1, _CHUNK // num_queries)  # bounds memory, whatever the number of queries
    means = []
    for start in range(0, plan.num_bootstrap, chunk):
        size = min(chunk, plan.num_bootstrap - start)
        drawn = generator.integers(num_queries, size=(size, num_queries))
        drawn += np.arange(size)[:, None] * num_queries
        counts = np.bincount(drawn.ravel(), minlength=size * num_queries)
        means.append(counts.reshape(size, num_queries) @ values / num_queries)
    return np.concatenate(means)
