"""Compute several batches at a time, each on one core."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def spread(work: Callable[[T], R], batches: Sequence[T], device: torch.device) -> list[R]:
    """Results of `work` in the order of `batches`; on a CPU as many at a time as torch has threads.

    A small network's layers are too short to share between cores: two batches at once, each on one
    core, finish sooner than one after the other on both (`benchmarks/feature_extraction.py`).
    """
    num_threads = torch.get_num_threads()
    if device.type != "cpu" or num_threads == 1 or len(batches) == 1:
        return [work(batch) for batch in batches]
    try:
        with ThreadPoolExecutor(
            num_threads, "batch", initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            return list(pool.map(work, batches))
    finally:
        torch.set_num_threads(num_threads)
