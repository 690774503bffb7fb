"""Several instances' rankings as one list."""

from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


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
