"""Make a GPU's results repeatable, and its float32 as exact as a CPU's."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def forbid_tf32() -> None:
    """Make a GPU compute float32 in float32: its convolutions would round to 10 bits."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


@contextmanager
def deterministic_kernels(device: torch.device) -> Iterator[None]:
    """Within the block a GPU uses kernels that give the same result for the same input and seed.

    A CPU always does. It holds for the whole process, threads included. An operation that has no
    such kernel is named in a warning.
    """
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault(WORKSPACE, ":4096:8")  # read when cuBLAS first allocates
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    settings: Any = torch.utils.deterministic
    filled = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        settings.fill_uninitialized_memory = filled
