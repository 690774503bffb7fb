"""Ranks as processes forked from a test."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch.multiprocessing.spawn import start_processes

Check = Callable[[int, Path], None]


def on_ranks(folder: Path, check: Check, num_ranks: int = 2) -> None:
    """Run `check(rank, folder)` on every rank; an exception on any of them is raised here."""
    arguments = (folder, check, num_ranks)
    start_processes(_rank, arguments, nprocs=num_ranks, start_method="fork")  # type: ignore[no-untyped-call]


def _rank(rank: int, folder: Path, check: Check, num_ranks: int) -> None:
    store = f"file://{folder}/store"
    torch.distributed.init_process_group("gloo", store, rank=rank, world_size=num_ranks)
    check(rank, folder)
    torch.distributed.destroy_process_group()
