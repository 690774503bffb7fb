"""A frozen backbone's maps, computed once: they never change.

Jittered scenes cannot be kept, so a few jittered views of every scene are (ours).
"""

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float16, Float32
from torch import Tensor

from product1m.config import RpnTrainingConfig
from product1m.data.items import ItemTable
from product1m.data.photos import fit_within
from product1m.detection.canvas import STRIDE, stack_canvases
from product1m.detection.jitter import jitter
from product1m.detection.proposals import Maps, ProposalNetwork
from product1m.telemetry.progress import track
from product1m.training import distributed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CachedScene:
    """What training needs of a view of a scene."""

    scale: Float32[np.ndarray, "4"]
    """Factors from boxes on the stored scene to boxes on the canvas."""
    maps: list[Float16[Tensor, "C H_s W_s"]]


@dataclass(frozen=True)
class MapCache:
    """The views of all training scenes; a batch has one view, so its scenes are of one size."""

    views: Sequence[Mapping[int, CachedScene]]

    def scene(self, position: int, batch: int) -> CachedScene:
        """The scene at a row position in the view of a batch's number."""
        return self.views[batch % len(self.views)][position]


def cache_maps(
    network: ProposalNetwork, items: ItemTable, positions: Sequence[int], config: RpnTrainingConfig
) -> MapCache | None:
    """The maps of `cached_views` views of every scene, in main memory.

    None, with the reason logged, where the backbone trains, no view is asked for, or they would
    exceed `feature_cache_mib`.
    """
    factors = view_factors(config)
    if not network.backbone.frozen or not factors:
        logger.info("the backbone runs every step: it trains, or no views are to be cached")
        return None
    needed = sum(num_bytes(network, items, positions, factor) for factor in factors) / 2**20
    if needed > config.feature_cache_mib:
        logger.info(
            "the backbone runs every step: maps of %d views need %d MiB, "
            "rpn_training.feature_cache_mib is %d",
            len(factors),
            needed,
            config.feature_cache_mib,
        )
        return None
    backbone = copy.deepcopy(network.backbone).fold_batch_norms().to(distributed.device()).eval()
    views: list[dict[int, CachedScene]] = [{} for _ in factors]
    for position in track(positions, "backbone maps"):
        photo = items.photo(position)
        for view, factor in enumerate(factors):
            generator = np.random.default_rng([config.seed, 2, view, position])
            canvas = jitter(photo, config, factor, generator)
            with torch.inference_mode():
                maps = backbone(stack_canvases([canvas]).to(distributed.device()))
            halves = [level[0].half().cpu() for level in maps]
            views[view][position] = CachedScene(canvas.scale(), halves)
    return MapCache(views)


def view_factors(config: RpnTrainingConfig) -> list[float]:
    """The sizes of the views relative to the network's, evenly spread over the jitter."""
    count = config.cached_views
    return [1 + config.scale_jitter * ((2 * view + 1) / count - 1) for view in range(count)]


def stack_maps(
    scenes: Sequence[list[Float16[Tensor, "C H_s W_s"]]],
    batch_of: Sequence[list[Float16[Tensor, "C H_s W_s"]]] | None = None,
) -> Maps:
    """Maps of several scenes level by level, filled up with zeros to the largest.

    Where they are a part of a batch, `batch_of` holds the maps of all of it.
    """
    stacked: list[Float[Tensor, "B C H_s W_s"]] = []
    for level, whole in zip(
        zip(*scenes, strict=True), zip(*(batch_of or scenes), strict=True), strict=True
    ):
        height, width = (max(one.shape[side] for one in whole) for side in (1, 2))
        batch = torch.zeros(len(level), len(level[0]), height, width)
        for row, one in zip(batch, level, strict=True):
            row[:, : one.shape[1], : one.shape[2]] = one
        stacked.append(batch.contiguous(memory_format=torch.channels_last))
    return stacked


def num_bytes(
    network: ProposalNetwork, items: ItemTable, positions: Sequence[int], factor: float
) -> int:
    """Bytes of the scenes' maps in float16 at `factor` times the network's size."""
    backbone = network.backbone
    short, long = round(network.short_side_px * factor), round(network.long_side_px * factor)
    total = 0
    for width, height in items.rows[["width", "height"]].iloc[list(positions)].to_numpy():
        scale = fit_within(width, height, short, long)
        cells = [-(-round(side * scale) // STRIDE) * STRIDE for side in (width, height)]
        for channels, stride in zip(backbone.channels, backbone.strides, strict=True):
            total += 2 * channels * (cells[0] // stride) * (cells[1] // stride)
    return total
