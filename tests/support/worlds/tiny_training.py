"""A regression that trains in a second: plan, network, batches and losses."""

import torch
from torch import Tensor, nn

from product1m.training.loop import TrainingPlan

PLAN = TrainingPlan(
    num_steps=12,
    learning_rate=0.05,
    checkpoint_interval_steps=4,
    report_interval_steps=3,
    seed=3,
)
Batch = dict[str, Tensor]


def make_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 1))


def batch_at(index: int) -> Batch:
    generator = torch.Generator().manual_seed(index)
    rows = torch.randn(8, 4, generator=generator)
    return {"rows": rows, "sums": rows.sum(1, keepdim=True)}


def losses(module: nn.Module, batch: Batch) -> dict[str, Tensor]:
    error = module(batch["rows"]) - batch["sums"]
    return {"squared": (error**2).mean(), "absolute": 0.5 * error.abs().mean()}


def silent(step: int, terms: dict[str, float]) -> None: ...
