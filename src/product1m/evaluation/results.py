"""Score every method on every query, with bootstrap intervals over the queries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from product1m.evaluation.methods import SHIPPED
from product1m.evaluation.metrics import (
    DEFINITIONS,
    Definition,
    GroundTruth,
    mean_scores,
    score_queries,
)
from product1m.evaluation.ranking import Choice, Method, rank
from product1m.evaluation.statistics import (
    MAIN_DEPTH,
    METRIC_NAMES,
    BootstrapPlan,
    Interval,
    bootstrap_intervals,
)
from product1m.evaluation.variants import QueryVariants
from product1m.retrieval.search import Searcher
from product1m.telemetry.progress import track

RankingsByMethod = Mapping[str, Mapping[str, list[str]]]
"""Method to query id to gallery ids, best first."""
MethodScores = dict[Definition, dict[str, dict[str, Interval]]]
"""Definition, depth, metric (`mAP`, `mAR`, `Prec`)."""


@dataclass(frozen=True)
class BlockGain:
    """The gain in strict mAP@10 from one block of the shipped ranking, on the test queries."""

    block: str
    blocks: tuple[str, ...]
    """The blocks of the measured ranking; their weights were chosen again on the dev queries."""
    score: Interval
    gain: Interval
    """Paired difference: with the block minus without it."""


def score_methods(ranked: Mapping[str, RankingsByMethod], truth: GroundTruth) -> pd.DataFrame:
    """One row per query, method, definition and depth, with the query's split."""
    frames = [
        score_queries(rankings, truth, definition).assign(
            method=method, definition=definition, split=split
        )
        for split, methods in ranked.items()
        for method, rankings in methods.items()
        for definition in DEFINITIONS
    ]
    return pd.concat(frames, ignore_index=True)


def mean_tables(scores: pd.DataFrame) -> dict[str, dict[str, dict[str, Any]]]:
    """The means by split, method, definition and depth."""
    means: dict[str, dict[str, dict[str, Any]]] = {}
    groups = scores.groupby(["split", "method", "definition"], sort=False)
    for (split, method, definition), rows in groups:
        methods = means.setdefault(str(split), {})
        methods.setdefault(str(method), {})[str(definition)] = mean_scores(rows)
    return means


def all_intervals(scores: pd.DataFrame, plan: BootstrapPlan) -> dict[str, MethodScores]:
    """Intervals of every metric of every method, by method; all from the same resamples."""
    by_method: dict[str, MethodScores] = {method: {} for method in scores["method"].unique()}
    for definition in DEFINITIONS:
        rows = scores[scores["definition"] == definition]
        wide = rows.pivot(index="query_id", columns=["method", "depth"], values=list(METRIC_NAMES))
        intervals = list(bootstrap_intervals(_flat(wide), plan).values())
        for (column, method, depth), interval in zip(
            map(tuple, wide.columns), intervals, strict=True
        ):
            tables = by_method[method].setdefault(definition, {})
            tables.setdefault(str(depth), {})[METRIC_NAMES[column]] = interval
    return by_method


class Figure(NamedTuple):
    """One entry of a split's tables."""

    name: str
    """`strict/shipped/mAP@10`."""
    method: str
    metric: str
    value: Any


def figures(tables: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]]) -> list[Figure]:
    """A split's means or intervals, by method, definition, depth and metric, in one list."""
    return [
        Figure(f"{definition}/{method}/{metric}@{depth}", method, metric, value)
        for method, definitions in tables.items()
        for definition, depths in definitions.items()
        for depth, metrics in depths.items()
        for metric, value in metrics.items()
    ]


def ap_by_method(scores: pd.DataFrame) -> pd.DataFrame:
    """Strict AP@10: one row per query, one column per method, shipped first."""
    rows = scores[(scores["definition"] == "strict") & (scores["depth"] == MAIN_DEPTH)]
    table = rows.pivot(index="query_id", columns="method", values="ap")
    return table[list(rows["method"].unique())]


def differences(ap: pd.DataFrame, plan: BootstrapPlan) -> dict[str, Interval]:
    """Shipped minus every other method, paired over the queries."""
    return bootstrap_intervals(ap.drop(columns=SHIPPED).rsub(ap[SHIPPED], axis=0), plan)


def gains_of_blocks(
    searcher: Searcher,
    variants: QueryVariants,
    choice: Choice,
    truth: GroundTruth,
    shipped: pd.Series,
    plan: BootstrapPlan,
) -> dict[str, list[BlockGain]]:
    """`without`: the loss if a block is left out. `adding`: the gain of each block, added in turn.

    `shipped` is the shipped ranking's strict AP@10 by query id.
    """

    def ap_of(weights: Mapping[str, float]) -> pd.Series:
        rankings = rank(searcher, variants, Method("some of the blocks", weights))
        scores = score_queries(rankings, truth, "strict", [MAIN_DEPTH])
        return scores.set_index("query_id")["ap"].reindex(shipped.index)

    def gain(block: str, blocks: Sequence[str], ap: pd.Series, lead: pd.Series) -> BlockGain:
        intervals = bootstrap_intervals(pd.DataFrame({"score": ap, "gain": lead}), plan)
        return BlockGain(block, tuple(blocks), intervals["score"], intervals["gain"])

    without = []
    for block, fusion in track(choice.without.items(), "leaving blocks out", len(choice.without)):
        ap = ap_of(fusion.weights)
        rest = [other for other in choice.without if other != block]
        without.append(gain(block, rest, ap, shipped - ap))
    adding: list[BlockGain] = []
    before = pd.Series(0.0, shipped.index)
    for block, fusion in track(choice.growing.items(), "adding blocks", len(choice.growing)):
        ap = ap_of(fusion.weights)
        adding.append(gain(block, [*(step.block for step in adding), block], ap, ap - before))
        before = ap
    return {"without": without, "adding": adding}


def _flat(wide: pd.DataFrame) -> pd.DataFrame:
    columns = [str(number) for number in range(wide.shape[1])]
    return pd.DataFrame(np.asarray(wide, np.float64), wide.index, columns)
