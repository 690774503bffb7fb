"""Weights as files."""

from torch import Tensor, nn


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """The weights on the CPU in the usual memory order, so that equal weights are equal files."""
    return {name: tensor.contiguous().cpu() for name, tensor in module.state_dict().items()}
