"""A frozen backbone's maps, computed once: they never change where nothing is jittered."""

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float16, Float32
from torch import Tensor

from product1m.config import RpnTrainingConfig
from product1m.data.item_table import ItemTable
from product1m.data.photos import fit_within
from product1m.detection.canvas import STRIDE, stack_canvases
from product1m.detection.rpn import Maps, ProposalNetwork
from product1m.progress import track
from product1m.training import distributed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CachedScene:
    """What training needs of a scene."""

    scale: Float32[np.ndarray, "4"]
    """Factors from boxes on the stored scene to boxes on the canvas."""
    maps: list[Float16[Tensor, "C H_s W_s"]]


CachedMaps = Mapping[int, CachedScene]


def cache_maps(
    network: ProposalNetwork, items: ItemTable, positions: Sequence[int], config: RpnTrainingConfig
) -> CachedMaps | None:
    """The maps of all scenes by row position, in main memory.

    None, with the reason logged, where the backbone trains, scenes are jittered, or the maps
    exceed `feature_cache_mib`.
    """
    if not network.backbone.frozen or config.color_jitter or config.scale_jitter:
        logger.info("the backbone runs every step: it trains, or its scenes are jittered")
        return None
    needed = _num_bytes(network, items, positions) / 2**20
    if needed > config.feature_cache_mib:
        logger.info(
            "the backbone runs every step: maps of all scenes need %d MiB, "
            "rpn_training.feature_cache_mib is %d",
            needed,
            config.feature_cache_mib,
        )
        return None
    backbone = copy.deepcopy(network.backbone).fold_batch_norms().to(distributed.device()).eval()
    cached: dict[int, CachedScene] = {}
    for position in track(positions, "backbone maps"):
        canvas = network.canvas(items.photo(position))
        with torch.inference_mode():
            maps = backbone(stack_canvases([canvas]).to(distributed.device()))
        halves = [level[0].half().cpu() for level in maps]
        cached[position] = CachedScene(canvas.scale(), halves)
    return cached


def stack_maps(scenes: Sequence[list[Float16[Tensor, "C H_s W_s"]]]) -> Maps:
    """Maps of several scenes level by level, filled up with zeros to the largest."""
    stacked: list[Float[Tensor, "B C H_s W_s"]] = []
    for level in zip(*scenes, strict=True):
        height, width = (max(one.shape[side] for one in level) for side in (1, 2))
        batch = torch.zeros(len(level), len(level[0]), height, width)
        for row, one in zip(batch, level, strict=True):
            row[:, : one.shape[1], : one.shape[2]] = one
        stacked.append(batch.contiguous(memory_format=torch.channels_last))
    return stacked


def _num_bytes(network: ProposalNetwork, items: ItemTable, positions: Sequence[int]) -> int:
    """Bytes of the maps in float16."""
    backbone = network.backbone
    total = 0
    for width, height in items.rows[["width", "height"]].iloc[list(positions)].to_numpy():
        factor = fit_within(width, height, network.short_side_px, network.long_side_px)
        cells = [-(-round(side * factor) // STRIDE) * STRIDE for side in (width, height)]
        for channels, stride in zip(backbone.channels, backbone.strides, strict=True):
            total += 2 * channels * (cells[0] // stride) * (cells[1] // stride)
    return total
