"""Threads that answer photos, and the bounded queue before them."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from product1m.errors import Product1MError
from product1m.telemetry.cpus import available_cpus

Answer = TypeVar("Answer")


class QueueFullError(Product1MError):
    """More photos wait than may wait; try again later."""


class WorkerThreads:
    """Threads that each compute with one thread of their own, so that photos do not share cores."""

    def __init__(self, num_workers: int, max_waiting: int) -> None:
        """Start with `num_workers` threads; 0: one for every CPU of this container."""
        self.num_workers = num_workers or available_cpus()
        self._max_unanswered = self.num_workers + max_waiting
        self._unanswered = 0
        self._changing = threading.Lock()
        self._threads = ThreadPoolExecutor(self.num_workers, "answer", _compute_alone)

    @property
    def num_waiting(self) -> int:
        """Photos that wait for a thread."""
        return max(0, self._unanswered - self.num_workers)

    @property
    def is_full(self) -> bool:
        """Whether another photo would be refused."""
        return self._unanswered >= self._max_unanswered

    async def run(self, work: Callable[[], Answer]) -> Answer:
        """Do some work in a thread, after the work that waits already.

        If it is canceled while it waits, it never starts; what has started runs to its end.

        Raises QueueFullError instead of waiting in a full queue.
        """
        with self._changing:
            if self.is_full:
                raise QueueFullError(f"{self.num_waiting} photos wait already; try again later")
            self._unanswered += 1
        future = self._threads.submit(work)
        future.add_done_callback(self._count_answered)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Finish the work that has started, and start nothing else."""
        self._threads.shutdown(cancel_futures=True)

    def _count_answered(self, _: Future[Any]) -> None:
        with self._changing:
            self._unanswered -= 1


def _compute_alone() -> None:
    """The libraries' number of threads counts for the thread that sets it."""
    import faiss
    import torch

    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
