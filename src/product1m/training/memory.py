"""When memory runs out: the same batch in smaller parts.

The network runs over one part after the other. A part's activations are dropped and computed again
for its backward pass, so that memory holds those of one part. The losses are computed from the
outputs of all parts and see the whole batch, other samples as negatives included, and the gradients
are those of the whole batch.
"""

import gc
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import torch
from torch.utils.checkpoint import checkpoint

from product1m.artifacts.atomic import write_text
from product1m.telemetry.allocator import MMAP_THRESHOLD, TRIM_THRESHOLD, set_allocator

R = TypeVar("R")
M = TypeVar("M")

PARTS = "parts.txt"
_MESSAGES = (
    "DefaultCPUAllocator: can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that an allocation failed, on a GPU or in main memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MESSAGES)


def release_memory() -> None:
    """Give back what a failed computation left; call it outside the `except` block."""
    gc.collect()
    torch.cuda.empty_cache()  # does nothing where no GPU is in use


def keep_freed_memory(device: torch.device) -> None:
    """Let the C library keep the memory that a step on a CPU frees for the next one, up to 2 GiB.

    Without this, each step gets memory from the system, which clears it first: a tenth of the
    step's time. Only glibc can do this; elsewhere, and on a GPU, this does nothing.
    """
    if device.type == "cpu":
        set_allocator({TRIM_THRESHOLD: 2**31 - 1, MMAP_THRESHOLD: 32 << 20})


def parts_of(num_rows: int, num_parts: int) -> list[slice]:
    """Consecutive rows in `num_parts` parts of nearly equal size, none of them empty."""
    num_parts = max(1, min(num_parts, num_rows))
    ends = [num_rows * part // num_parts for part in range(num_parts + 1)]
    return [slice(start, end) for start, end in pairwise(ends)]


def in_parts(function: Callable[[slice], R], num_rows: int, num_parts: int) -> Sequence[R]:
    """Results of `function` for the rows of each part.

    With several parts only the results stay in memory: the backward pass calls the function again,
    with the same random numbers.
    """
    parts = parts_of(num_rows, num_parts)
    if len(parts) == 1:
        return [function(parts[0])]
    return [checkpoint(function, part, use_reentrant=False) for part in parts]


def in_halves(work: Callable[[Sequence[M]], list[R]], members: Sequence[M]) -> list[R]:
    """Results of `work` for all members; where memory runs out, for half of them at a time.

    Only for work that treats every member by itself. Raises the error if one member is too many.
    """
    try:
        return work(members)
    except (RuntimeError, MemoryError) as error:
        if len(members) == 1 or not is_out_of_memory(error):
            raise
    release_memory()
    half = len(members) // 2
    return [*in_halves(work, members[:half]), *in_halves(work, members[half:])]


def read_num_parts(work: Path) -> int:
    """Into how many parts an earlier attempt had to split its batches; 1 if no file says so."""
    try:
        return max(1, int((work / PARTS).read_text("ascii")))
    except (OSError, ValueError):
        return 1


def keep_num_parts(work: Path, num_parts: int) -> None:
    """Remember for the next attempt into how many parts batches must be split."""
    work.mkdir(parents=True, exist_ok=True)
    write_text(work / PARTS, str(num_parts))
