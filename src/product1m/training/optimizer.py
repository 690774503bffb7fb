"""AdamW with decay on matrices only, and a learning rate that rises and falls linearly."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

MIN_FUSED = 10_000_000
"""Number of parameters from which all are updated in one fused pass. It takes a fifth of the time
and changes the last digits; a smaller network would gain nothing (ours;
`benchmarks/pretraining_step.py`)."""


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate."""

    parameters: Sequence[nn.Parameter]
    rate_multiplier: float = 1.0
    """Factor of the plan's learning rate."""


def make_optimizer(
    groups: Sequence[ParameterGroup], learning_rate: float, weight_decay: float
) -> AdamW:
    """AdamW; only parameters of two or more dimensions decay, biases and norms do not (ours).

    The released code has the two swapped. Frozen parameters are left out. From `MIN_FUSED` on all
    parameters are updated in one pass; the results differ in the last digits only.
    """
    settings: list[dict[str, Any]] = []
    for group in groups:
        trainable = [p for p in group.parameters if p.requires_grad]
        for parameters, decay in (
            ([p for p in trainable if p.ndim >= 2], weight_decay),
            ([p for p in trainable if p.ndim < 2], 0.0),
        ):
            if parameters:
                rate = learning_rate * group.rate_multiplier
                settings.append({"params": parameters, "lr": rate, "weight_decay": decay})
    number = sum(parameter.numel() for group in settings for parameter in group["params"])
    return AdamW(settings, fused=True if number >= MIN_FUSED else None)


def warmup_and_decay(step: int, num_steps: int, warmup_share: float) -> float:
    """The factor on the peak rate at a 0-based step: linear up, then linear down to 0 (paper)."""
    num_warmup = round(num_steps * warmup_share)
    if step < num_warmup:
        return (step + 1) / num_warmup
    return max(0.0, (num_steps - step) / max(1, num_steps - num_warmup))


def make_scheduler(optimizer: AdamW, num_steps: int, warmup_share: float) -> LambdaLR:
    """Linear warm-up and linear decay over `num_steps`, on every group."""
    return LambdaLR(optimizer, lambda step: warmup_and_decay(step, num_steps, warmup_share))
