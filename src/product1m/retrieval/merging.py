"""Merge the rankings of a query's boxes into one, only by match scores and ranks."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, TypeVar, get_args

Item = TypeVar("Item")
MergeRule = Literal["best_score", "round_robin", "score_sorted", "reciprocal_rank"]
MERGE_RULES: tuple[MergeRule, ...] = get_args(MergeRule)
RANK_OFFSET = 60
"""Added to every rank before its reciprocal is taken (Cormack et al., SIGIR 2009)."""


def merge(
    rankings: Sequence[Sequence[tuple[Item, float]]], depth: int, rule: MergeRule
) -> list[Item]:
    """At most `depth` items of several rankings with match scores, best first, without repeats."""
    if rule == "round_robin":
        return round_robin([[item for item, _ in ranking] for ranking in rankings], depth)
    if rule == "score_sorted":
        return score_sorted(rankings, depth)
    if rule == "reciprocal_rank":
        return reciprocal_rank(rankings, depth)
    return best_score(rankings, depth)


def best_score(rankings: Sequence[Sequence[tuple[Item, float]]], depth: int) -> list[Item]:
    """Rank an item by its best match score over the boxes (ours).

    A box without a product has only low match scores, so its answers come last. Among equal scores,
    the one seen first, ranking by ranking, comes first.
    """
    best: dict[Item, float] = {}
    for ranking in rankings:
        for item, score in ranking:
            if item not in best or score > best[item]:
                best[item] = score
    return sorted(best, key=best.__getitem__, reverse=True)[:depth]


def score_sorted(rankings: Sequence[Sequence[tuple[Item, float]]], depth: int) -> list[Item]:
    """All entries sorted by score, with each ranking's scores scaled to 0 … 1 first (ours).

    So the first answers of all boxes have equal scores, however badly they match. Without scaling
    this would equal `best_score`.
    """
    return best_score([_scaled(ranking) for ranking in rankings], depth)


def reciprocal_rank(rankings: Sequence[Sequence[tuple[Item, float]]], depth: int) -> list[Item]:
    """Reciprocal rank fusion: an item's score is the sum of 1 / (60 + rank) over the rankings.

    (Cormack et al., SIGIR 2009) Items in several rankings get larger sums. Among equal sums, the
    one seen first, ranking by ranking, comes first.
    """
    sums: defaultdict[Item, float] = defaultdict(float)
    for ranking in rankings:
        for rank, (item, _) in enumerate(ranking, start=1):
            sums[item] += 1 / (RANK_OFFSET + rank)
    return sorted(sums, key=sums.__getitem__, reverse=True)[:depth]


def round_robin(rankings: Sequence[Sequence[Item]], depth: int) -> list[Item]:
    """The rankings take turns; each adds its best item that is not in the list yet (ours).

    Turns follow the order of `rankings`, until there are `depth` items or no more answers.
    """
    merged: list[Item] = []
    listed: set[Item] = set()
    waiting = [iter(ranking) for ranking in rankings]
    while waiting and len(merged) < depth:
        for ranking in list(waiting):
            item = next((item for item in ranking if item not in listed), None)
            if item is None:
                waiting.remove(ranking)
                continue
            listed.add(item)
            merged.append(item)
            if len(merged) == depth:
                break
    return merged


def _scaled(ranking: Sequence[tuple[Item, float]]) -> list[tuple[Item, float]]:
    scores = [score for _, score in ranking]
    low, span = min(scores, default=0.0), max(scores, default=0.0) - min(scores, default=0.0)
    return [(item, (score - low) / span if span else 1.0) for item, score in ranking]
