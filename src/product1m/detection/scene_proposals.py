"""Proposals on whole scenes, for measuring a network on scenes that it was not trained on."""

from collections.abc import Sequence

import numpy as np
import torch

from product1m.detection.canvas import stack_canvases
from product1m.detection.measuring import ScoredBoxes
from product1m.detection.proposals import ProposalNetwork
from product1m.detection.scene_batches import Scenes
from product1m.telemetry.progress import track


@torch.inference_mode()
def propose_on(
    network: ProposalNetwork, scenes: Scenes, positions: Sequence[int]
) -> list[ScoredBoxes]:
    """Proposals for each scene; the network must be in evaluation mode."""
    proposals: list[ScoredBoxes] = []
    for position in track(positions, "held-out scenes"):
        canvas = network.canvas(scenes.items.photo(position))
        maps = network(stack_canvases([canvas]).to(network.device))
        (on_canvas,) = network.propose(maps, [canvas.inner_px])
        boxes = on_canvas.boxes_xyxy.cpu().numpy() / canvas.scale()
        proposals.append(ScoredBoxes(boxes.astype(np.float32), on_canvas.scores.cpu().numpy()))
    return proposals
