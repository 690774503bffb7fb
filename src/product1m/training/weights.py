"""Weights as files."""

from collections.abc import Collection
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn

from product1m.errors import ArtifactError


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """The weights on the CPU in the usual memory order, so that equal weights are equal files."""
    return {name: tensor.contiguous().cpu() for name, tensor in module.state_dict().items()}


def load_weights(module: nn.Module, path: Path, keep: Collection[str] = ()) -> None:
    """Load a file's weights into a module, all but those that `keep` names.

    Raises ArtifactError if the file is of another module.
    """
    own = module.state_dict()
    stored = load_file(path) | {name: own[name] for name in keep}
    try:
        module.load_state_dict(stored)
    except RuntimeError as error:
        raise ArtifactError(f"{path}: these are weights of another network: {error}") from error
