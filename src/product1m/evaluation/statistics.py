"""Bootstrap intervals over queries, and paired differences."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
from jaxtyping import Float

from product1m.errors import RetrievalError

_CHUNK = 1 << 20


class BootstrapPlan(Protocol):
    """What an interval needs to know; the evaluation's configuration is one."""

    @property
    def num_bootstrap(self) -> int:
        """Resamples of the queries."""

    @property
    def confidence(self) -> float:
        """Share of the resampled means inside the interval."""

    @property
    def seed(self) -> int:
        """Of the resampling; the same seed and number of queries resample alike."""


@dataclass(frozen=True)
class Interval:
    """A mean over queries and its percentile bootstrap interval."""

    mean: float
    low: float
    high: float

    @property
    def above_zero(self) -> bool:
        """The whole interval lies above zero."""
        return self.low > 0

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"

    def as_dict(self) -> dict[str, float]:
        """As it stands in `metrics.json`."""
        return {"mean": self.mean, "low": self.low, "high": self.high}


def bootstrap_interval(
    values: Float[np.ndarray, " Q"] | pd.Series, plan: BootstrapPlan
) -> Interval:
    """Interval of the mean of one value a query, queries drawn with replacement."""
    return bootstrap_intervals(pd.DataFrame({"value": np.asarray(values)}), plan)["value"]


def bootstrap_intervals(values: pd.DataFrame, plan: BootstrapPlan) -> dict[str, Interval]:
    """Interval of each column's mean; one row a query, every column resampled alike."""
    table = values.to_numpy(np.float64)
    if len(table) == 0 or not np.isfinite(table).all():
        raise RetrievalError(
            f"an interval over {len(table)} queries needs one finite value a query and column; "
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


def score_intervals(scores: pd.DataFrame, plan: BootstrapPlan) -> dict[str, dict[str, Interval]]:
    """`metrics.mean_scores` with intervals: {"10": {"mAP": …, "mAR": …, "Prec": …}, …}."""
    names = {"ap": "mAP", "recall": "mAR", "precision": "Prec"}
    return {
        str(depth): bootstrap_intervals(group[list(names)].rename(columns=names), plan)
        for depth, group in scores.groupby("depth")
    }


def paired_difference(ours: pd.Series, other: pd.Series, plan: BootstrapPlan) -> Interval:
    """Interval of the mean of `ours - other`, both one value a query and indexed by query id.

    Raises RetrievalError where the two do not hold the same queries.
    """
    alone = ours.index.symmetric_difference(other.index)
    if len(alone) or not ours.index.is_unique or len(ours) != len(other):
        raise RetrievalError(
            f"a paired difference needs the same queries on both sides, each once: "
            f"{len(ours)} against {len(other)}, {len(alone)} on one side only"
            + (f", first {alone[0]!r}" if len(alone) else "")
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
