"""The training loop: steps, checkpoints, curves.

Resuming needs no sampler and no random state: a batch is a function of its index, and what the
forward pass draws is seeded from the plan's seed, the step and the rank, so that dropout differs.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from product1m.config import Precision
from product1m.errors import TrainingError
from product1m.telemetry.progress import track
from product1m.training import distributed
from product1m.training.checkpoint import (
    TrainingState,
    checkpoints,
    restore_checkpoint,
    save_checkpoint,
)
from product1m.training.memory import (
    is_out_of_memory,
    keep_freed_memory,
    keep_num_parts,
    read_num_parts,
    release_memory,
)
from product1m.training.optimizer import ParameterGroup, make_optimizer, make_scheduler

logger = logging.getLogger(__name__)

Batch = TypeVar("Batch")
Module = TypeVar("Module", bound=nn.Module)
Losses = Callable[..., dict[str, Tensor]]
"""Called with the module, a batch and, once memory ran out, `num_parts`."""
Report = Callable[[int, dict[str, float]], None]
"""Called on rank 0 with a step, the mean of each term over the ranks since the last call, their sum
as `total`, and the step's `learning_rate`."""


@dataclass(frozen=True)
class TrainingPlan:
    """How long and how fast to train."""

    num_steps: int
    """Optimizer steps."""
    learning_rate: float
    """Peak rate."""
    weight_decay: float = 0.01
    warmup_share: float = 0.1
    max_gradient_norm: float = 1.0
    accumulation_steps: int = 1
    """Batches whose gradients are averaged before a step."""
    precision: Precision = "float32"
    checkpoint_interval_steps: int = 500
    report_interval_steps: int = 10
    """Steps whose terms are averaged into one point of the curve."""
    seed: int = 0


def train(
    module: Module,
    losses: Losses,
    batch_at: Callable[[int], Batch],
    plan: TrainingPlan,
    *,
    work: Path,
    report: Report,
    groups: Sequence[ParameterGroup] | None = None,
    description: str = "training",
    max_parts: int = 1,
) -> list[dict[str, float]]:
    """Train `module` in place on `distributed.device()`, from the newest checkpoint below `work`.

    `losses` gives the weighted terms of a batch, which the loop adds up. `batch_at(i)` is a pure
    function, called ahead in a thread; step s takes the batches s · accumulation_steps and
    following. A batch is a tensor, a container of tensors, or has `.to(device)`; its `item_ids`, if
    any, appear in errors. All ranks share `work`. All parameters train at the plan's rate unless
    `groups` says otherwise. Returns the curve since step 1, earlier attempts included.

    A single process that runs out of memory splits this and all later batches, up to `max_parts`:
    `losses(module, batch, num_parts)` must give those of the whole batch (`training.memory`).

    Raises TrainingError, on every rank, for a loss that is not finite (the last good checkpoint is
    kept), a checkpoint that does not fit, ranks that do not share `work`, and too little memory.
    """
    device = distributed.device()
    keep_freed_memory(device)
    module.to(device).train()
    distributed.check_shared(work)
    training = _Training.resume(module, plan, work, report, groups, max_parts)
    done, accumulated = training.state.step, plan.accumulation_steps
    if done:
        logger.info("%s: continuing from step %d of %d", description, done, plan.num_steps)
    objective = _replicated(_Objective(module, losses), device)
    batches = _ahead(batch_at, range(done * accumulated, plan.num_steps * accumulated), device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for _ in track(range(done, plan.num_steps), description):
            training.step(objective, list(islice(batches, accumulated)))
    return training.state.curve


@dataclass
class _Training:
    """What changes while a module trains."""

    module: nn.Module
    plan: TrainingPlan
    work: Path
    report: Report
    optimizer: AdamW
    scheduler: LambdaLR
    state: TrainingState
    max_parts: int
    """Into how many parts a batch may be split."""
    num_parts: int
    """Into how many parts each batch is split, because memory ran out."""

    @classmethod
    def resume(
        cls,
        module: nn.Module,
        plan: TrainingPlan,
        work: Path,
        report: Report,
        groups: Sequence[ParameterGroup] | None,
        max_parts: int,
    ) -> "_Training":
        """The training from its newest checkpoint, or from step 0."""
        groups = groups or [ParameterGroup(list(module.parameters()))]
        optimizer = make_optimizer(groups, plan.learning_rate, plan.weight_decay)
        scheduler = make_scheduler(optimizer, plan.num_steps, plan.warmup_share)
        state = restore_checkpoint(work, module, optimizer, scheduler, asdict(plan))
        num_parts = read_num_parts(work) if distributed.world_size() == 1 else 1
        return cls(module, plan, work, report, optimizer, scheduler, state, max_parts, num_parts)

    def step(self, objective: nn.Module, batches: Sequence[Any]) -> None:
        """One optimizer step over the mean gradient of some batches; saved when it is due."""
        step, plan = self.state.step, self.plan
        try:
            terms = self._gradients(objective, batches)
        except _NotFiniteError as error:
            raise TrainingError(f"step {step}: {error}; {_kept(self.work)}") from None
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, plan.max_gradient_norm)
        self.optimizer.step()
        self.state.step = step + 1
        _record(self.state, terms, self.optimizer.param_groups[0]["lr"], plan, self.report)
        self.scheduler.step()
        if self.state.step in (plan.num_steps, self._next_checkpoint(step)):
            if distributed.rank() == 0:
                save_checkpoint(self.work, self.module, self.optimizer, self.scheduler, self.state)
            distributed.barrier()

    def _gradients(self, objective: nn.Module, batches: Sequence[Any]) -> dict[str, float]:
        """The mean gradient of some batches, in as many parts as memory needs."""
        while True:
            seed = _step_seed(self.plan.seed, self.state.step, distributed.rank())
            torch.manual_seed(seed)
            self.optimizer.zero_grad(set_to_none=True)
            try:
                return _accumulate(
                    objective, batches, self.plan, distributed.device(), self.num_parts
                )
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or distributed.world_size() > 1:
                    raise
                reason = str(error)
            # The failed attempt's tensors go with the error, whose block has ended.
            release_memory()
            self._split_more(reason)

    def _split_more(self, reason: str) -> None:
        """Halve the parts, now and in the next attempt."""
        where = f"step {self.state.step}: memory ran out"
        if self.num_parts >= self.max_parts:
            raise TrainingError(
                f"{where} with a batch in {self.num_parts} parts ({reason}); lower the step's "
                "batch_size or its sizes, or train on a device with more memory"
            )
        self.num_parts = min(2 * self.num_parts, self.max_parts)
        keep_num_parts(self.work, self.num_parts)
        logger.warning(
            "%s; the batch is split into %d parts from here on, which takes longer: %s",
            *(where, self.num_parts, reason),
        )

    def _next_checkpoint(self, step: int) -> int:
        interval = self.plan.checkpoint_interval_steps
        return (step // interval + 1) * interval


class _Objective(nn.Module):
    """The module and its losses as one forward pass, which is what data parallelism wraps."""

    def __init__(self, module: nn.Module, losses: Losses) -> None:
        super().__init__()
        self.module = module
        self._losses = losses

    def forward(self, batch: Any, num_parts: int) -> dict[str, Tensor]:
        if num_parts == 1:
            return self._losses(self.module, batch)
        return self._losses(self.module, batch, num_parts)


def _replicated(objective: nn.Module, device: torch.device) -> nn.Module:
    if distributed.world_size() == 1:
        return objective
    devices = [device] if device.type == "cuda" else None
    # A task that is switched off leaves its head without a gradient.
    return DistributedDataParallel(objective, devices, find_unused_parameters=True)


def _accumulate(
    objective: nn.Module,
    batches: Sequence[Any],
    plan: TrainingPlan,
    device: torch.device,
    num_parts: int,
) -> dict[str, float]:
    """Add the mean gradient of some batches; the mean of every term.

    The terms are read after the backward pass has been asked for: reading them waits for a GPU.
    """
    sums: dict[str, float] = {}
    for part, batch in enumerate(batches, start=1):
        with _synchronized(objective, part == len(batches)):
            terms = _backward(objective, to_device(batch, device), plan, device, num_parts)
        for name, value in _finite_values(terms, batch).items():
            sums[name] = sums.get(name, 0.0) + value / len(batches)
    return sums


def _backward(
    objective: nn.Module, batch: Any, plan: TrainingPlan, device: torch.device, num_parts: int
) -> dict[str, Tensor]:
    """Add one batch's gradients; its terms and their `total`."""
    with torch.autocast(device.type, torch.bfloat16, enabled=plan.precision == "bf16"):
        terms: dict[str, Tensor] = objective(batch, num_parts)
    stacked = torch.stack([term.float() for term in terms.values()])
    total = stacked.sum()
    torch.autograd.backward(total / plan.accumulation_steps)
    values = torch.cat([stacked.detach(), total.detach()[None]])
    return dict(zip([*terms, "total"], values.unbind(), strict=True))


def _finite_values(terms: Mapping[str, Tensor], batch: Any) -> dict[str, float]:
    """The terms' means over the ranks; _NotFiniteError on every rank if one is not finite."""
    own = torch.stack(list(terms.values()))
    values = dict(zip(terms, distributed.mean_over_ranks(own).tolist(), strict=True))
    if not all(math.isfinite(value) for value in values.values()):
        ids = getattr(batch, "item_ids", None) or "not named"
        finite = bool(own.isfinite().all())
        rows = distributed.gather_objects(None if finite else (own.tolist(), ids))
        raise _NotFiniteError(
            "; ".join(
                f"{dict(zip(terms, row[0], strict=True))}, items of the batch: {row[1]}"
                for row in rows
                if row
            )
        )
    return values


def _synchronized(objective: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Ranks exchange gradients with the last batch of a step only."""
    if isinstance(objective, DistributedDataParallel) and not last:
        return objective.no_sync()
    return nullcontext()


class _NotFiniteError(Exception):
    """The terms of a batch whose loss is not a number."""


def _kept(work: Path) -> str:
    folders = checkpoints(work)
    kept = f"the last good checkpoint is {folders[-1]}" if folders else "there is no checkpoint yet"
    return f"the loss must be finite; {kept}; try a lower learning rate or float32"


def _record(
    state: TrainingState,
    terms: Mapping[str, float],
    learning_rate: float,
    plan: TrainingPlan,
    report: Report,
) -> None:
    """Add a step to the pending sums, and report their means when a point is due."""
    for name, value in terms.items():
        state.pending[name] = state.pending.get(name, 0.0) + value
    since = (state.step - 1) % plan.report_interval_steps + 1
    if since < plan.report_interval_steps and state.step < plan.num_steps:
        return
    means = {name: value / since for name, value in state.pending.items()}
    means["learning_rate"] = float(learning_rate)
    state.pending = {}
    state.curve.append({"step": float(state.step), **means})
    if distributed.rank() == 0:
        report(state.step, means)


def _step_seed(seed: int, step: int, rank: int) -> int:
    """A seed for each step and rank; multiplying by primes keeps neighbors apart."""
    return (seed * 1_000_003 + step * 7919 + rank * 104_729) % (1 << 63)


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch with its tensors on a device; lists, tuples and dicts in it are kept."""
    if hasattr(batch, "to"):
        return batch.to(device)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return type(batch)(to_device(value, device) for value in batch)
    return batch


def _ahead(
    batch_at: Callable[[int], Batch], indices: Sequence[int], device: torch.device
) -> Iterator[Batch]:
    """Yield the batches in order; the next is made in a thread while one is used.

    Batches for a GPU that have `pin_memory()` are pinned, so that copying them waits for nothing.
    """

    def make(index: int) -> Batch:
        batch: Any = batch_at(index)
        pins = device.type == "cuda" and hasattr(batch, "pin_memory")
        return batch.pin_memory() if pins else batch  # type: ignore[no-any-return]

    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        waiting = pool.submit(make, indices[0]) if indices else None
        for index in [*indices[1:], None]:
            if waiting is None:
                return
            batch = waiting.result()
            waiting = None if index is None else pool.submit(make, index)
            yield batch
