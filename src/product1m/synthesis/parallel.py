"""Spread work over several processes: results in order, a bounded number of tasks in flight."""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Self, TypeVar

import cv2

from product1m.data.in_order import in_order
from product1m.errors import DatasetError
from product1m.telemetry.processes import end_with_parent

In = TypeVar("In")
Out = TypeVar("Out")


class WorkerProcesses:
    """Processes with one OpenCV thread each; a single worker is this process.

    They are spawned, not forked, because a fork would copy locks held by threads of MLflow and
    OpenCV.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self._number > 1:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(
                self._number, context, initializer=_begin, initargs=(os.getpid(),)
            )
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(self, work: Callable[[In], Out], tasks: Iterable[In]) -> Iterator[Out]:
        """Results in the order of the tasks.

        Raises DatasetError if a process is killed, for example because memory ran out.
        """
        if self._pool is None:
            yield from map(work, tasks)
            return
        try:
            yield from in_order(self._pool, work, tasks, self._number)
        except BrokenProcessPool as error:
            raise DatasetError(
                f"a process of background_synthesis was killed ({error}), probably because memory "
                "ran out; lower background_synthesis.num_workers and run the step again: it resumes"
            ) from error


def _begin(parent: int) -> None:
    end_with_parent(parent)
    cv2.setNumThreads(1)
