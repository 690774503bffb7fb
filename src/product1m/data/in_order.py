"""Work for a pool: results in order, a bounded number of tasks in flight."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")

PENDING_PER_WORKER = 4
"""Tasks in flight per worker: enough to keep it busy, few enough to bound memory (ours)."""


def in_order(
    pool: Executor, work: Callable[[In], Out], inputs: Iterable[In], num_workers: int
) -> Iterator[Out]:
    """Results in the order of the inputs; few inputs are read ahead, however many there are."""
    pending: deque[Future[Out]] = deque()
    for value in inputs:
        pending.append(pool.submit(work, value))
        if len(pending) >= num_workers * PENDING_PER_WORKER:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
