"""A proposal network that was not trained, whose scores differ from box to box."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from product1m.artifacts.folder import Artifact, open_artifact, write_artifact
from product1m.detection.proposals import MODEL, NetworkSettings, ProposalNetwork
from tests.support.worlds.tiny_scenes import RPN


def write_rpn(folder: Path, scenes: Artifact | None = None) -> Artifact:
    """Write its artifact, as if it was trained on `scenes`."""
    torch.manual_seed(0)
    network = ProposalNetwork(NetworkSettings.from_config(RPN), RPN.weights)
    torch.nn.init.normal_(network.rpn.head.cls_logits.weight, std=1.0)
    inputs = {} if scenes is None else {"scenes": scenes}
    with write_artifact(folder, "rpn_training", RPN, inputs) as writer:
        save_file(network.state_dict(), writer.folder / MODEL)
    return open_artifact(folder, "rpn_training")
