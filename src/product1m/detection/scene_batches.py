"""Synthesized scenes as training batches: a pure function of seed and batch number.

Each rank makes its part of a batch.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
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
from product1m.data.items import ITEMS, SOURCES, ItemTable
from product1m.data.regions import INSTANCES
from product1m.detection.canvas import Canvas, make_canvas, stack_canvases
from product1m.detection.jitter import jitter_photo
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
        self._instances = instances

    @property
    def sources(self) -> list[np.ndarray]:
        """The items that every scene's products were cut from, in the order of their boxes."""
        sources = self._instances["source_id"].to_numpy(object)
        return _by_scene(sources, self._instances, len(self.items))

    def source_photos(self) -> ItemTable:
        """The items that products were cut from; DatasetError if they were not kept."""
        if f"{SOURCES}{ITEMS}" not in self.items.artifact.manifest.files:
            raise DatasetError(
                f"{self.items.artifact.folder}: expected the photos that products were cut from, "
                "got none; set background_synthesis.keep_sources=true, or "
                "rpn_training.instance_weight=0"
            )
        return ItemTable(self.items.artifact, SOURCES)

    def split(self, name: str) -> list[int]:
        """Row positions of a split's scenes; DatasetError if it has none."""
        positions: list[int] = np.flatnonzero(self.items.rows["split"] == name).tolist()
        if not positions:
            raise DatasetError(
                f"{self.items.artifact.folder}: expected scenes of the split {name!r}, got none; "
                "raise background_synthesis.num_scenes or check "
                "background_synthesis.held_out_share"
            )
        return positions

    def id(self, position: int) -> str:
        """The scene's id at a row position."""
        return str(self.items.rows["id"].iloc[position])


def boxes_by_scene(instances: pd.DataFrame, num_scenes: int) -> list[Boxes]:
    """The corners of every scene's products, in the table's order."""
    return _by_scene(instances[list(CORNERS)].to_numpy(np.float32), instances, num_scenes)


def _by_scene(rows: np.ndarray, instances: pd.DataFrame, num_scenes: int) -> list[np.ndarray]:
    """Rows of the table of instances, scene by scene."""
    scene_numbers = instances["scene"].to_numpy()
    order = np.argsort(scene_numbers, kind="stable")
    ends = np.searchsorted(scene_numbers[order], np.arange(1, num_scenes))
    return np.split(rows[order], ends)


@dataclass(frozen=True)
class SceneBatch:
    """Scenes at the network's size: as photos, or as a frozen backbone's maps of them."""

    item_ids: list[str]
    boxes_xyxy: list[Float[Tensor, "K 4"]]
    """Pixels of the canvas."""
    inputs: UInt8[Tensor, "B 3 H W"] | Maps

    def to(self, device: torch.device) -> "SceneBatch":
        """The batch on a device."""
        inputs, ahead = self.inputs, device.type == "cuda"
        return SceneBatch(
            self.item_ids,
            [boxes.to(device) for boxes in self.boxes_xyxy],
            [level.to(device, non_blocking=ahead) for level in inputs]
            if isinstance(inputs, list)
            else inputs.to(device, non_blocking=ahead),
        )

    def pin_memory(self) -> "SceneBatch":
        """This batch with its scenes in pinned memory."""
        inputs = self.inputs
        pinned = (
            [level.pin_memory() for level in inputs]
            if isinstance(inputs, list)
            else inputs.pin_memory()
        )
        return replace(self, inputs=pinned)

    def maps(self, network: ProposalNetwork, rows: slice) -> Maps:
        """The backbone's maps of some scenes; the backbone runs unless the batch holds its maps."""
        if isinstance(self.inputs, list):
            return [level[rows] for level in self.inputs]
        maps: Maps = network(self.inputs[rows])
        return maps


def losses(network: ProposalNetwork, batch: SceneBatch, num_parts: int = 1) -> dict[str, Tensor]:
    """The RPN's losses on a batch, computed in `num_parts` parts if memory is short."""

    def maps(rows: slice) -> Maps:
        return batch.maps(network, rows)

    return network.losses_in_parts(maps, batch.boxes_xyxy, num_parts)


@dataclass(frozen=True)
class SceneBatchSettings:
    """How scenes become batches.

    The section `rpn_training` of the configuration explains each value.
    """

    batch_size: int
    """Scenes of a step, over all ranks."""
    num_epochs: int
    short_side_px: int
    long_side_px: int
    color_jitter: float
    camera_share: float
    scale_jitter: float
    num_workers: int
    seed: int

    @classmethod
    def from_config(cls, config: RpnTrainingConfig) -> "SceneBatchSettings":
        """The settings in a configuration section."""
        return cls(
            batch_size=config.batch_size,
            num_epochs=config.num_epochs,
            short_side_px=config.short_side_px,
            long_side_px=config.long_side_px,
            color_jitter=config.color_jitter,
            camera_share=config.camera_share,
            scale_jitter=config.scale_jitter,
            num_workers=config.num_workers,
            seed=config.seed,
        )


class SceneBatches:
    """This rank's part of batch number i; each shuffled pass has every scene once."""

    def __init__(
        self,
        scenes: Scenes,
        positions: Sequence[int],
        settings: SceneBatchSettings,
        cached: MapCache | None = None,
    ) -> None:
        if settings.batch_size < distributed.world_size():
            raise ConfigError(
                f"rpn_training.batch_size={settings.batch_size}: with "
                f"{distributed.world_size()} processes, some would get no scene; raise the batch "
                "size or train with fewer processes"
            )
        self._scenes = scenes
        self._positions = np.array(positions)
        self._settings = settings
        self._cached = cached
        self._shuffled = lru_cache(2)(self._shuffle)

    @property
    def num_steps(self) -> int:
        """Steps of all passes; one further pass fills up the last batch."""
        return -(-self._settings.num_epochs * len(self._positions) // self._settings.batch_size)

    @property
    def batches_per_pass(self) -> int:
        """Full batches of the first pass over the scenes, at least one."""
        return max(1, len(self._positions) // self._settings.batch_size)

    @property
    def num_views(self) -> int:
        """Views of each scene whose maps are cached; 0 if the backbone runs at every step."""
        return len(self._cached.views) if self._cached is not None else 0

    def scenes_of(self, num_batches: int) -> set[int]:
        """Row positions of the scenes in the first batches."""
        return {position for number in range(num_batches) for position in self._members(number)}

    def item_ids(self, number: int) -> list[str]:
        """The scenes of this rank's share of batch `number`."""
        members = self._members(number)
        return [self._scenes.id(position) for position in members[distributed.share(len(members))]]

    def __call__(self, number: int) -> SceneBatch:
        """This rank's share of batch `number`."""
        members = self._members(number)
        places = range(len(members))[distributed.share(len(members))]
        positions = [members[place] for place in places]
        ids = [self._scenes.id(position) for position in positions]
        if self._cached is not None:
            views = [self._cached.scene(position, number) for position in positions]
            boxes = self._boxes(positions, [view.scale for view in views])
            return SceneBatch(ids, boxes, stack_maps([view.maps for view in views]))
        canvases = self._jittered(number, places, positions)
        boxes = self._boxes(positions, [canvas.scale() for canvas in canvases])
        return SceneBatch(ids, boxes, stack_canvases(canvases))

    def _jittered(
        self, number: int, places: Sequence[int], positions: Sequence[int]
    ) -> list[Canvas]:
        """Scenes at one random size, each with its own random colors."""
        settings = self._settings
        strength = settings.scale_jitter
        generator = np.random.default_rng([settings.seed, 1, number, 0])
        factor = generator.uniform(1 - strength, 1 + strength)
        sides = round(settings.short_side_px * factor), round(settings.long_side_px * factor)

        def prepare(place: int, position: int) -> Canvas:
            # A scene's colors depend on its place in the whole batch, not on the rank that has it.
            own = np.random.default_rng([settings.seed, 1, number, 1 + place])
            photo = self._scenes.items.photo(position)
            seen = jitter_photo(photo, settings.color_jitter, settings.camera_share, own)
            return make_canvas(seen, *sides)

        with ThreadPoolExecutor(max(1, settings.num_workers), "decode") as pool:
            return list(pool.map(prepare, places, positions))

    def _members(self, number: int) -> list[int]:
        size, num_scenes = self._settings.batch_size, len(self._positions)
        passes = [divmod(place, num_scenes) for place in range(number * size, (number + 1) * size)]
        return [int(self._shuffled(epoch)[place]) for epoch, place in passes]

    def _shuffle(self, epoch: int) -> Int[np.ndarray, " S"]:
        generator = np.random.default_rng([self._settings.seed, 0, epoch])
        return generator.permutation(self._positions)

    def _boxes(
        self, positions: Sequence[int], scales: Sequence[Float32[np.ndarray, "4"]]
    ) -> list[Float[Tensor, "K 4"]]:
        """The products' boxes on the scenes' canvases."""
        return [
            torch.from_numpy(self._scenes.boxes_xyxy[position] * scale)
            for position, scale in zip(positions, scales, strict=True)
        ]
