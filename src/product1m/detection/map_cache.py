"""A frozen backbone's maps, which never change, are computed once.

A scene with new random changes at every step could not be cached, so each scene has a few fixed
views with random changes (ours).
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
from product1m.detection.canvas import canvas_px, make_canvas, stack_canvases
from product1m.detection.jitter import jitter_photo, view_factors
from product1m.detection.proposals import Maps, ProposalNetwork
from product1m.telemetry.progress import track
from product1m.training import distributed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CacheSettings:
    """Which views of a scene are cached.

    The section `rpn_training` of the configuration explains each value.
    """

    num_views: int
    max_mib: int
    color_jitter: float
    camera_share: float
    scale_jitter: float
    seed: int

    @classmethod
    def from_config(cls, config: RpnTrainingConfig) -> "CacheSettings":
        """The settings in a configuration section."""
        return cls(
            num_views=config.cached_views,
            max_mib=config.feature_cache_mib,
            color_jitter=config.color_jitter,
            camera_share=config.camera_share,
            scale_jitter=config.scale_jitter,
            seed=config.seed,
        )


@dataclass(frozen=True)
class CachedScene:
    """What training needs from one view of a scene."""

    scale: Float32[np.ndarray, "4"]
    """Factors from boxes on the stored scene to boxes on the canvas."""
    maps: list[Float16[Tensor, "C H_s W_s"]]


@dataclass(frozen=True)
class MapCache:
    """The views of all training scenes; a batch uses one view, so its scenes have one size."""

    views: Sequence[Mapping[int, CachedScene]]

    def scene(self, position: int, batch: int) -> CachedScene:
        """The scene at a row position in the view of a batch's number."""
        return self.views[batch % len(self.views)][position]


def cache_maps(
    network: ProposalNetwork, items: ItemTable, positions: Sequence[int], settings: CacheSettings
) -> MapCache | None:
    """The maps of several views of every scene, in main memory.

    Returns None and logs the reason if the backbone trains, if `num_views` is 0, or if the maps
    would need more than `max_mib`.
    """
    factors = view_factors(settings.num_views, settings.scale_jitter)
    if not network.backbone.frozen or not factors:
        logger.info("the backbone runs at every step: it trains, or rpn_training.cached_views is 0")
        return None
    needed = sum(num_bytes(network, items, positions, factor) for factor in factors) / 2**20
    if needed > settings.max_mib:
        logger.info(
            "the backbone runs at every step: the maps of %d views need %d MiB, but "
            "rpn_training.feature_cache_mib is %d",
            len(factors),
            needed,
            settings.max_mib,
        )
        return None
    backbone = copy.deepcopy(network.backbone).fold_batch_norms().to(distributed.device()).eval()
    views: list[dict[int, CachedScene]] = [{} for _ in factors]
    for position in track(positions, "backbone maps"):
        photo = items.photo(position)
        for view, factor in enumerate(factors):
            generator = np.random.default_rng([settings.seed, 2, view, position])
            seen = jitter_photo(photo, settings.color_jitter, settings.camera_share, generator)
            canvas = make_canvas(seen, *_sides_px(network, factor))
            with torch.inference_mode():
                maps = backbone(stack_canvases([canvas]).to(distributed.device()))
            halves = [level[0].half().cpu() for level in maps]
            views[view][position] = CachedScene(canvas.scale(), halves)
    return MapCache(views)


def stack_maps(scenes: Sequence[list[Float16[Tensor, "C H_s W_s"]]]) -> Maps:
    """Maps of several scenes level by level, padded with zeros to the largest."""
    stacked: list[Float[Tensor, "B C H_s W_s"]] = []
    for level in zip(*scenes, strict=True):
        height, width = (max(scene.shape[side] for scene in level) for side in (1, 2))
        batch = torch.zeros(len(level), len(level[0]), height, width)
        for row, scene in zip(batch, level, strict=True):
            row[:, : scene.shape[1], : scene.shape[2]] = scene
        stacked.append(batch.contiguous(memory_format=torch.channels_last))
    return stacked


def num_bytes(
    network: ProposalNetwork, items: ItemTable, positions: Sequence[int], factor: float
) -> int:
    """Bytes of the scenes' maps in float16 at `factor` times the network's size."""
    backbone = network.backbone
    total = 0
    for width, height in items.rows[["width", "height"]].iloc[list(positions)].to_numpy():
        rows, columns = canvas_px(int(width), int(height), *_sides_px(network, factor))
        for channels, stride in zip(backbone.channels, backbone.strides, strict=True):
            total += 2 * channels * (columns // stride) * (rows // stride)
    return total


def _sides_px(network: ProposalNetwork, factor: float) -> tuple[int, int]:
    return round(network.short_side_px * factor), round(network.long_side_px * factor)
