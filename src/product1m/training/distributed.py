"""Ranks under `torchrun`, and one process without it.

Ranks share one batch, each a part of its rows. A loss averages over the rows of all ranks, so the
gradients are those of one process with the whole batch. What is drawn at random (masks, proposals,
dropout, anchors) depends on the number of ranks.
"""

import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from product1m.errors import TrainingError
from product1m.telemetry.processes import end_with_run
from product1m.training.exact import forbid_tf32

MAX_LAST_PART = timedelta(days=2)
"""How long rank 0 may measure and write after the last step while the others wait (ours)."""


def rank() -> int:
    """This process's number over all nodes; 0 without `torchrun`."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def device() -> torch.device:
    """This rank's GPU, or the CPU where there is none; both compute float32 in float32."""
    if torch.cuda.is_available():
        forbid_tf32()
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


@contextmanager
def process_group() -> Iterator[None]:
    """Join the group `torchrun` describes in the environment; without it, do nothing.

    Only rank 0 reports what it does; the others still warn. All ranks leave the block together, so
    that they end with an error if rank 0 fails after the last step, and rank 0 if one of them does.
    """
    end_with_run()
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(device())
    store, own_rank, num_ranks = next(rendezvous("env://"))
    # torchrun keeps its store when it starts workers again, and with it the addresses of the dead.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    dist.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo",
        store=PrefixStore(f"attempt-{attempt}", store),
        rank=own_rank,
        world_size=num_ranks,
    )
    if rank() > 0:
        logging.getLogger("product1m").setLevel(logging.WARNING)
    # Gloo notices at once when a process ends; NCCL would wait for it.
    end: Any = dist.new_group(backend="gloo", timeout=MAX_LAST_PART)
    yield
    try:
        dist.barrier(end)
    except RuntimeError as error:
        raise RuntimeError(
            f"rank {rank()}: another rank ended before the artifact was complete"
        ) from error
    # After an error the others may be waiting for this rank: leaving in order would wait for them,
    # ending at once lets torchrun end them too.
    dist.destroy_process_group()


def barrier() -> None:
    """Wait until every rank is here."""
    if dist.is_initialized():
        dist.barrier()


def share(num_rows: int) -> slice:
    """This rank's part of `num_rows` rows; if they do not divide, the first ranks have one more."""
    least, left_over = divmod(num_rows, world_size())
    start = rank() * least + min(rank(), left_over)
    return slice(start, start + least + (rank() < left_over))


def weigh(mean: Float[Tensor, ""], num_rows: int) -> Float[Tensor, ""]:
    """Scale a mean over this rank's rows so that the ranks' mean is the mean over all their rows.

    Data parallelism averages gradients over ranks, and ranks may hold different numbers of rows.
    """
    if world_size() == 1:
        return mean
    total = torch.tensor(float(num_rows), device=mean.device)
    dist.all_reduce(total)
    return mean * (num_rows * world_size() / total.clamp(min=1))


def largest(number: int) -> int:
    """The largest of the ranks' numbers."""
    return int(max(gather_objects(number)))


def mean_over_ranks(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Every value's mean over the ranks."""
    if world_size() > 1:
        values = values.clone()
        dist.all_reduce(values)
        values /= world_size()
    return values


def gather_objects(value: Any) -> list[Any]:
    """Every rank's value, rank 0's first."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


class _GatherRows(torch.autograd.Function):
    """`all_gather` whose gradient is the sum of the gradients of all ranks' losses."""

    @staticmethod
    def forward(context: FunctionCtx, rows: Tensor, counts: list[int]) -> Tensor:
        context.counts = counts  # type: ignore[attr-defined]
        longest = max(counts)
        padded = rows.new_zeros(longest, *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(context: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        counts: list[int] = context.counts  # type: ignore[attr-defined]
        start = sum(counts[: rank()])
        return total[start : start + counts[rank()]], None


def num_rows_by_rank(rows: Shaped[Tensor, "B ..."]) -> list[int]:
    """How many rows every rank holds."""
    if world_size() == 1:
        return [len(rows)]
    counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    return [int(count) for count in torch.cat(counts).tolist()]


def gather_rows(rows: Shaped[Tensor, "B ..."]) -> Shaped[Tensor, "W ..."]:
    """The rows of all ranks, rank 0's first; gradients flow back to the rank they came from.

    Ranks may hold different numbers of rows.
    """
    if world_size() == 1:
        return rows
    gathered: Tensor = _GatherRows.apply(rows, num_rows_by_rank(rows))
    return gathered


def check_shared(folder: Path) -> None:
    """Raise TrainingError on every rank unless all of them see one and the same folder."""
    if world_size() == 1:
        return
    (name, *_) = gather_objects(f".seen-{secrets.token_hex(8)}")
    marker = folder / name
    if rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        marker.touch()
    barrier()
    seen = gather_objects(marker.exists())
    if rank() == 0:
        marker.unlink()
    blind = [number for number, sees in enumerate(seen) if not sees]
    if blind:
        raise TrainingError(
            f"{folder}: of {world_size()} ranks the ranks {blind} do not see what rank 0 writes "
            "here; set PRODUCT1M_WORK to a folder on storage that all nodes share"
        )
