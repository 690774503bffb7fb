"""Work for several processes: results in order, a bounded number in flight."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import cv2

from product1m.errors import DatasetError

In = TypeVar("In")
Out = TypeVar("Out")

PENDING_PER_WORKER = 4
"""Tasks in flight a process: enough to keep it busy, little enough to bound memory (ours)."""


def in_processes(work: Callable[[In], Out], tasks: Iterable[In], num_workers: int) -> Iterator[Out]:
    """Results in the order of the tasks; one worker works in this very process.

    Processes are spawned, not forked: a fork would copy the locks of the threads that MLflow and
    OpenCV started. Raises DatasetError if a process is killed, as it is when memory runs out.
    """
    if num_workers == 1:
        yield from map(work, tasks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, context, initializer=_use_one_thread) as pool:
        pending: deque[Future[Out]] = deque()
        try:
            for task in tasks:
                pending.append(pool.submit(work, task))
                if len(pending) >= num_workers * PENDING_PER_WORKER:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise DatasetError(
                f"a process of background_synthesis was killed ({error}); is memory short? "
                "lower background_synthesis.num_workers and run it again, it goes on from there"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _use_one_thread() -> None:
    cv2.setNumThreads(1)
