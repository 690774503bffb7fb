"""Whether a backbone keeps products apart: retrieval among pasted products by image alone.

Training for proposals rewards what products have in common, and can destroy what tells one from
another (decision 3). So it is measured before and after.
"""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float32

from product1m.data.vectors import normalize
from product1m.detection.canvas import stack_canvases
from product1m.detection.measuring import (
    BACKBONE_KEPT,
    IMAGE_ONLY,
    IMAGE_ONLY_BEFORE,
    IMAGE_ONLY_TRAINED,
)
from product1m.detection.pooling import BINS, pool
from product1m.detection.proposals import ProposalNetwork
from product1m.detection.scene_batches import Scenes
from product1m.telemetry.progress import track
from product1m.training import distributed

logger = logging.getLogger(__name__)

DEPTH = 10
MAX_SCENES = 300
"""Scenes, the first ones, that are measured on (ours)."""


def image_only_map(network: ProposalNetwork, scenes: Scenes, positions: Sequence[int]) -> float:
    """Strict mAP@10 of every pasted product among all others; those cut from its photo are right.

    Products of a photo that was pasted once are no queries. 0 if no photo was pasted twice.

    Args:
        network: in evaluation mode.
        scenes: with their instances.
        positions: of the scenes to measure on.
    """
    chosen = positions[:MAX_SCENES]
    vectors = np.concatenate([_vectors(network, scenes, place) for place in track(chosen, "RoIs")])
    sources = np.concatenate([scenes.sources[place] for place in chosen])
    vectors = normalize(vectors - vectors.mean(axis=0))
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -np.inf)
    ranked = np.argsort(-similar, axis=1, kind="stable")[:, :DEPTH]
    right = (sources[ranked] == sources[:, None]) & (ranked != np.arange(len(sources))[:, None])
    others = (sources[:, None] == sources[None]).sum(axis=1) - 1
    asked = others > 0
    if not asked.any():
        return 0.0
    found = right.cumsum(axis=1) / np.arange(1, right.shape[1] + 1)
    precision = (found * right).sum(axis=1)[asked] / np.minimum(others[asked], DEPTH)
    return float(precision.mean())


def keep_if_apart(
    network: ProposalNetwork,
    trained: ProposalNetwork,
    scenes: Scenes,
    held_out: Sequence[int],
) -> dict[str, float]:
    """Give a network the backbone of a trained one, unless it distinguishes products less well.

    In any case it is frozen afterwards. Returns retrieval by image alone with both, that of the
    backbone that stays, and whether this is the trained one. All ranks decide the same.
    """
    device = distributed.device()
    before = image_only_map(network.to(device).eval(), scenes, held_out)
    after = image_only_map(trained.to(device).eval(), scenes, held_out)
    kept = distributed.largest(int(after < before)) == 0
    if kept:
        network.backbone.load_state_dict(trained.backbone.state_dict())
    network.backbone.requires_grad_(False)
    logger.info(
        "the %s backbone stays: retrieval by image alone %.3f before training and %.3f after",
        "trained" if kept else "untrained",
        before,
        after,
    )
    return {
        IMAGE_ONLY_BEFORE: before,
        IMAGE_ONLY_TRAINED: after,
        IMAGE_ONLY: after if kept else before,
        BACKBONE_KEPT: float(kept),
    }


@torch.inference_mode()
def _vectors(network: ProposalNetwork, scenes: Scenes, position: int) -> Float32[np.ndarray, "K F"]:
    canvas = network.canvas(scenes.items.photo(position))
    last_map = network(stack_canvases([canvas]).to(network.device))[-1]
    boxes = torch.from_numpy(scenes.boxes_xyxy[position] * canvas.scale())
    (vectors,) = pool(last_map, [boxes], network.backbone.strides[-1], BINS)
    return vectors.cpu().numpy()
