"""Checkpoints between attempts: a folder that is whole or absent, read without pickle.

`model.safetensors`, `optimizer.pt` (opened with `weights_only=True`) and `state.json` with the
step, the plan and the loss curve so far. No random state is stored: what a step draws is a function
of seed, step and rank.
"""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from product1m.artifacts.atomic import whole_folder
from product1m.errors import TrainingError

WEIGHTS, OPTIMIZER, STATE = "model.safetensors", "optimizer.pt", "state.json"


@dataclass
class TrainingState:
    """Where a training is, beside its weights."""

    plan: dict[str, Any]
    step: int = 0
    """Optimizer steps done."""
    curve: list[dict[str, float]] = field(default_factory=list)
    """One row a report: `step` and the mean of every term since the report before."""
    pending: dict[str, float] = field(default_factory=dict)
    """Sums of the terms since the last report."""


def save_checkpoint(
    work: Path, module: nn.Module, optimizer: AdamW, scheduler: LambdaLR, state: TrainingState
) -> Path:
    """Write `checkpoint-<step>` below `work`, whole or not at all, and drop the older ones."""
    folder = work / f"checkpoint-{state.step:08d}"
    values = {**vars(state), "scheduler": {"last_epoch": scheduler.last_epoch}}
    older = [path for path in checkpoints(work) if path != folder]
    with whole_folder(folder) as partial:
        save_file(module.state_dict(), partial / WEIGHTS)
        torch.save(optimizer.state_dict(), partial / OPTIMIZER)
        (partial / STATE).write_text(json.dumps(values), "utf-8")
    for path in older:
        shutil.rmtree(path)
    return folder


def checkpoints(work: Path) -> list[Path]:
    """The finished checkpoints below `work`, oldest first."""
    return sorted(path.parent for path in work.glob(f"checkpoint-*/{STATE}"))


def restore_checkpoint(
    work: Path,
    module: nn.Module,
    optimizer: AdamW,
    scheduler: LambdaLR,
    plan: dict[str, Any],
) -> TrainingState:
    """Load the newest checkpoint below `work` in place; a fresh state where there is none.

    Raises TrainingError if it was made under another plan or for another module.
    """
    folders = checkpoints(work)
    if not folders:
        return TrainingState(plan)
    folder = folders[-1]
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
