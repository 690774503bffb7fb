"""Checkpoints between attempts: a folder that is whole or absent, read without pickle.

`model.safetensors`, `optimizer.pt` (opened with `weights_only=True`), `state.json` with the step,
the plan and the loss curve so far, and `digests.json` with the SHA-256 of these three. No random
state is stored: what a step draws is a function of seed, step and rank.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from product1m.artifacts.atomic import finish_removals, remove_folder, whole_folder
from product1m.errors import TrainingError
from product1m.storage.base import sha256_of
from product1m.training import distributed

logger = logging.getLogger(__name__)

WEIGHTS, OPTIMIZER, STATE = "model.safetensors", "optimizer.pt", "state.json"
DIGESTS = "digests.json"
KEPT = 2
"""Checkpoints that are kept: the newest, and the one before it in case of damage (ours)."""


@dataclass
class TrainingState:
    """The progress of a training, stored with its weights."""

    plan: dict[str, Any]
    step: int = 0
    """Optimizer steps done."""
    curve: list[dict[str, float]] = field(default_factory=list)
    """One row per report: `step` and the mean of every term since the report before."""
    pending: dict[str, float] = field(default_factory=dict)
    """Sums of the terms since the last report."""


def save_checkpoint(
    work: Path, module: nn.Module, optimizer: AdamW, scheduler: LambdaLR, state: TrainingState
) -> Path:
    """Write `checkpoint-<step>` below `work`, whole or not at all; one older checkpoint is kept."""
    folder = work / f"checkpoint-{state.step:08d}"
    values = {**vars(state), "scheduler": {"last_epoch": scheduler.last_epoch}}
    with whole_folder(folder) as partial:
        save_file(module.state_dict(), partial / WEIGHTS)
        torch.save(optimizer.state_dict(), partial / OPTIMIZER)
        (partial / STATE).write_text(json.dumps(values), "utf-8")
        digests = {name: sha256_of(partial / name) for name in (WEIGHTS, OPTIMIZER, STATE)}
        (partial / DIGESTS).write_text(json.dumps(digests), "utf-8")
    finish_removals(work)
    newer_first = [path for path in reversed(checkpoints(work)) if path <= folder]
    for path in newer_first[KEPT:]:
        remove_folder(path)
    return folder


def checkpoints(work: Path) -> list[Path]:
    """The checkpoints below `work`, oldest first; their files may be damaged."""
    return sorted(path.parent for path in work.glob(f"checkpoint-*/{DIGESTS}"))


def restore_checkpoint(
    work: Path,
    module: nn.Module,
    optimizer: AdamW,
    scheduler: LambdaLR,
    plan: dict[str, Any],
) -> TrainingState:
    """Load the newest undamaged checkpoint below `work` in place; without one, a fresh state.

    All ranks load the same one. Raises TrainingError if it was made under another plan or for
    another module.
    """
    folder = _newest_good(work)
    if folder is None:
        return TrainingState(plan)
    values = json.loads((folder / STATE).read_text("utf-8"))
    if values["plan"] != plan:
        raise TrainingError(
            f"{folder}: made under the plan {values['plan']}, this run has {plan}; "
            f"delete {work} to start over"
        )
    try:
        module.load_state_dict(load_file(folder / WEIGHTS))
        # On the CPU first, or every rank would put the moments on the GPU that saved them.
        moments = torch.load(folder / OPTIMIZER, weights_only=True, map_location="cpu")
        optimizer.load_state_dict(moments)
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"{folder}: does not fit this model ({error}); delete {work} to start over"
        ) from error
    last_epoch = values.pop("scheduler")["last_epoch"]
    scheduler.load_state_dict({**scheduler.state_dict(), "last_epoch": last_epoch})
    return TrainingState(**values)


def _newest_good(work: Path) -> Path | None:
    """The newest checkpoint that every rank reads undamaged; None if there is none."""
    candidates = [path.name for path in reversed(checkpoints(work))]
    names: Sequence[str] = distributed.gather_objects(candidates)[0]
    for name in names:
        damage = [text for text in distributed.gather_objects(_damage(work / name)) if text]
        if not damage:
            return work / name
        logger.warning(
            "%s: damaged, not used: %s; trying the checkpoint before it", work / name, damage[0]
        )
    if names:
        logger.warning("%s: no checkpoint can be used; training starts over", work)
    return None


def _damage(folder: Path) -> str:
    """What is wrong with a checkpoint's files; empty if nothing is."""
    try:
        digests = json.loads((folder / DIGESTS).read_text("utf-8"))
        for name in (WEIGHTS, OPTIMIZER, STATE):
            if sha256_of(folder / name) != digests[name]:
                return f"{name} does not have the digest that it was written with"
    except (OSError, ValueError, LookupError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""
