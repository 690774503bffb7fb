"""Synthesized scenes as training batches: a pure function of seed and batch number.

Ranks share a batch: each draws what a single process would draw for all of it, and makes its part.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Float32, Int, UInt8
from torch import Tensor

from product1m.artifacts.folder import Artifact
from product1m.config import RpnTrainingConfig
from product1m.data.geometry import CORNERS, Boxes
from product1m.data.items import ItemTable
from product1m.data.regions import INSTANCES
from product1m.detection.canvas import canvas_px, stack_canvases
from product1m.detection.jitter import jitter, skip_jitter
from product1m.detection.map_cache import MapCache, stack_maps
from product1m.detection.proposals import Maps, ProposalNetwork
from product1m.errors import ConfigError, DatasetError
from product1m.training import distributed


class Scenes:
    """The scenes of an artifact with the boxes of their products, in pixels of the stored photo."""

    def __init__(self, artifact: Artifact) -> None:
        self.items = ItemTable(artifact)
        instances: pd.DataFrame = pq.read_table(artifact.file(INSTANCES)).to_pandas()
        self.boxes_xyxy: list[Boxes] = boxes_by_scene(instances, len(self.items))

    def split(self, name: str) -> list[int]:
        """Row positions of a split's scenes; DatasetError if it has none."""
        positions: list[int] = np.flatnonzero(self.items.rows["split"] == name).tolist()
        if not positions:
            raise DatasetError(
                f"{self.items.artifact.folder}: no scene of the split {name!r}; raise "
                "background_synthesis.num_scenes, or check its held_out_share"
            )
        return positions

    def id(self, position: int) -> str:
        """The scene's id at a row position."""
        return str(self.items.rows["id"].iloc[position])


def boxes_by_scene(instances: pd.DataFrame, num_scenes: int) -> list[Boxes]:
    """The corners of every scene's products, in the table's order."""
    scene_of, corners = instances["scene"].to_numpy(), instances[list(CORNERS)].to_numpy(np.float32)
    order = np.argsort(scene_of, kind="stable")
    ends = np.searchsorted(scene_of[order], np.arange(1, num_scenes))
    return np.split(corners[order], ends)


@dataclass(frozen=True)
class SceneBatch:
    """Scenes at the network's size: as photos, or as a frozen backbone's maps of them."""

    item_ids: list[str]
    boxes_xyxy: list[Float[Tensor, "K 4"]]
    """Pixels of the canvas."""
    seen: UInt8[Tensor, "B 3 H W"] | Maps

    def to(self, device: torch.device) -> "SceneBatch":
        """The batch on a device."""
        seen = self.seen
        return SceneBatch(
            self.item_ids,
            [boxes.to(device) for boxes in self.boxes_xyxy],
            [level.to(device) for level in seen] if isinstance(seen, list) else seen.to(device),
        )


def losses(network: ProposalNetwork, batch: SceneBatch) -> dict[str, Tensor]:
    """The RPN's losses on a batch, through the backbone where its maps are not given."""
    maps = batch.seen if isinstance(batch.seen, list) else network(batch.seen)
    return network.losses(maps, batch.boxes_xyxy)


class SceneBatches:
    """This rank's part of batch number i: shuffled passes over the scenes, each once a pass."""

    def __init__(
        self,
        scenes: Scenes,
        positions: Sequence[int],
        config: RpnTrainingConfig,
        cached: MapCache | None = None,
    ) -> None:
        if config.batch_size < distributed.world_size():
            raise ConfigError(
                f"rpn_training.batch_size={config.batch_size}: leaves no scene for some of the "
                f"{distributed.world_size()} processes that share it; train with fewer, or raise it"
            )
        self._scenes = scenes
        self._positions = np.array(positions)
        self._config = config
        self._cached = cached
        self._shuffled = lru_cache(2)(self._shuffle)

    @property
    def num_steps(self) -> int:
        """Steps of all passes; the last batch is filled up from one pass more."""
        return -(-self._config.num_epochs * len(self._positions) // self._config.batch_size)

    def __call__(self, number: int) -> SceneBatch:
        """This rank's share of batch `number`."""
        members = self._members(number)
        mine = distributed.share(len(members))
        ids = [self._scenes.id(position) for position in members[mine]]
        if self._cached is not None:
            found = [self._cached.scene(position, number) for position in members]
            scales = [one.scale for one in found[mine]]
            maps = [one.maps for one in found]
            return SceneBatch(ids, self._boxes(members[mine], scales), stack_maps(maps[mine], maps))
        generator = np.random.default_rng([self._config.seed, 1, number, 0])
        strength = self._config.scale_jitter
        factor = generator.uniform(1 - strength, 1 + strength)
        skip_jitter(self._config, mine.start, generator)
        with ThreadPoolExecutor(max(1, self._config.num_workers), "decode") as pool:
            photos = pool.map(self._scenes.items.photo, members[mine])
            canvases = [jitter(photo, self._config, factor, generator) for photo in photos]
        boxes = self._boxes(members[mine], [canvas.scale() for canvas in canvases])
        return SceneBatch(ids, boxes, stack_canvases(canvases, self._largest_px(members, factor)))

    def _largest_px(self, members: Sequence[int], factor: float) -> tuple[int, int]:
        """Height and width that hold every scene of the batch, whichever rank has it."""
        short, long = (
            round(side * factor) for side in (self._config.short_side_px, self._config.long_side_px)
        )
        rows = self._scenes.items.rows[["width", "height"]].iloc[list(members)].to_numpy()
        sizes = [canvas_px(int(width), int(height), short, long) for width, height in rows]
        return max(height for height, _ in sizes), max(width for _, width in sizes)

    def _members(self, number: int) -> list[int]:
        size, num_scenes = self._config.batch_size, len(self._positions)
        passes = [divmod(place, num_scenes) for place in range(number * size, (number + 1) * size)]
        return [int(self._shuffled(epoch)[place]) for epoch, place in passes]

    def _shuffle(self, epoch: int) -> Int[np.ndarray, " S"]:
        generator = np.random.default_rng([self._config.seed, 0, epoch])
        return generator.permutation(self._positions)

    def _boxes(
        self, positions: Sequence[int], scales: Sequence[Float32[np.ndarray, "4"]]
    ) -> list[Float[Tensor, "K 4"]]:
        """The products' boxes on the scenes' canvases."""
        return [
            torch.from_numpy(self._scenes.boxes_xyxy[position] * scale)
            for position, scale in zip(positions, scales, strict=True)
        ]
