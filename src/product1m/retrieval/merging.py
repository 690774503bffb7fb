"""Several instances' rankings as one list, by scores and turns alone."""

from collections.abc import Sequence
from typing import Literal, TypeVar

Item = TypeVar("Item")
MergeRule = Literal["best_score", "round_robin"]


def merge(
    rankings: Sequence[Sequence[tuple[Item, float]]], depth: int, rule: MergeRule
) -> list[Item]:
    """At most `depth` items of rankings of items with their scores, best first; none twice."""
    if rule == "round_robin":
        return round_robin([[item for item, _ in ranking] for ranking in rankings], depth)
    return best_score(rankings, depth)


def best_score(rankings: Sequence[Sequence[tuple[Item, float]]], depth: int) -> list[Item]:
    """Rank an item by its score with the instance it suits best (ours).

    A region that shows no product suits nothing well and so claims no place. Of equal scores the
    one seen first, ranking by ranking, comes first.
    """
    best: dict[Item, float] = {}
    for ranking in rankings:
        for item, score in ranking:
            if item not in best or score > best[item]:
                best[item] = score
    return sorted(best, key=best.__getitem__, reverse=True)[:depth]


def round_robin(rankings: Sequence[Sequence[Item]], depth: int) -> list[Item]:
    """Let the rankings take turns, each giving its best item that is not listed yet (ours).

    Rankings come in the order of their turns. Ends at `depth` items or when all are used up.
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
