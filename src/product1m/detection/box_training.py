"""Training data of the second stage: a frozen proposal network's proposals on the scenes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from product1m.config import RpnTrainingConfig
from product1m.detection.box_head import BoxHead, head_losses, targets
from product1m.detection.canvas import stack_canvases
from product1m.detection.jitter import as_photographed
from product1m.detection.proposals import Maps, ProposalNetwork
from product1m.detection.scene_batches import SceneBatch, SceneBatches
from product1m.synthesis.interiors import draw_interior
from product1m.training import distributed

JITTERS = ((0, 0, 0, 0), (-0.12, -0.08, -0.12, -0.08), (0.08, 0.12, 0.08, 0.12),
           (-0.1, -0.1, 0.1, 0.1), (0.1, 0.1, -0.1, -0.1), (-0.2, 0.05, 0.1, -0.15),
           (0.15, -0.2, 0.05, 0.2), (0.02, 0.18, -0.2, 0.1))  # fmt: skip
"""Shifts of a product's corners, relative to its sides, for further examples of it (ours)."""
MIN_PAIR_SHARE = 0.45
"""Two products that fill at least this share of the box around both give an example: of what shows
neither alone (ours)."""
SCENES_PER_INTERIOR = 4
"""Scenes of a batch for each drawn photo without products (ours)."""
MIN_PRODUCTS = 5000
"""Fewer product boxes (about 200 scenes) do not describe products well: a new product would look as
unfamiliar as a lamp (ours)."""
FITTED_BATCHES = 100
"""Batches from which the scale of the features and the products' distribution come (ours)."""
_ASPECTS = ((1.0, 1.0), (1.0, 0.75), (0.75, 1.0))
"""Width and height of drawn photos, relative to the network's shorter side."""


@dataclass(frozen=True)
class BoxBatchSettings:
    """Which boxes are examples.

    The section `rpn_training` of the configuration explains each value.
    """

    num_proposals: int
    """How many of a photo's proposals are used, best first."""
    num_interiors: int
    max_mib: int
    seed: int

    @classmethod
    def from_config(cls, config: RpnTrainingConfig) -> "BoxBatchSettings":
        """The settings in a configuration section."""
        return cls(
            num_proposals=config.num_boxes,
            num_interiors=config.num_interiors,
            max_mib=config.feature_cache_mib,
            seed=config.seed,
        )


@dataclass(frozen=True)
class BoxBatch:
    """Boxes on some scenes, with the head's target for each."""

    item_ids: list[str]
    features: Float[Tensor, "A F"]
    overlaps: Float[Tensor, " A"]
    """IoU with the product that a box shows; 0 if it shows none."""
    shifts: Float[Tensor, "A 4"]

    def to(self, device: torch.device) -> "BoxBatch":
        """The batch on a device."""
        return BoxBatch(
            self.item_ids,
            self.features.to(device),
            self.overlaps.to(device),
            self.shifts.to(device),
        )


def box_losses(head: BoxHead, batch: BoxBatch) -> dict[str, Tensor]:
    """The second stage's losses on a batch."""
    return head_losses(head, batch.features.float(), batch.overlaps, batch.shifts)


class BoxBatches:
    """This rank's part of batch number i of the scenes, as boxes with their features.

    For every four scenes a batch has one drawn photo without products. Features of scenes with
    cached maps, and of drawn photos, are computed once, as far as memory allows.
    """

    def __init__(
        self, scenes: SceneBatches, network: ProposalNetwork, settings: BoxBatchSettings
    ) -> None:
        self._scenes = scenes
        self._network = network
        self._settings = settings
        self._room = settings.max_mib << 20
        self._kept: dict[tuple[str, int], BoxBatch] = {}

    def __call__(self, number: int) -> BoxBatch:
        """This rank's share of batch `number`."""
        ids = self._scenes.item_ids(number)
        interiors = [self._interior(place) for place in self._interiors_of(number, len(ids))]
        view = number % max(1, self._scenes.num_views)
        if all((item, view) in self._kept for item in ids):
            return _joined([self._kept[item, view] for item in ids] + interiors)
        batch = self._scenes(number).to(self._network.device)
        rows = [self._of_scene(batch, place) for place in range(len(ids))]
        if self._scenes.num_views:
            for row in rows:
                self._keep(row, view)
        return _joined(rows + interiors)

    def examples(self, num_batches: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Features of the boxes of the first batches, with each box's IoU with what it shows.

        No scene occurs twice.
        """
        for number in range(min(num_batches, self._scenes.batches_per_pass)):
            batch = self(number)
            yield batch.features, batch.overlaps

    def _interiors_of(self, number: int, num_scenes: int) -> list[int]:
        """The drawn photos of this rank's share of a batch; they take turns."""
        share = -(-num_scenes // SCENES_PER_INTERIOR)
        first = (number * distributed.world_size() + distributed.rank()) * share
        total = self._settings.num_interiors
        return [place % total for place in range(first, first + share)] if total else []

    def _interior(self, place: int) -> BoxBatch:
        key = (f"interior-{place}", 0)
        if key not in self._kept:
            rng = np.random.default_rng([self._settings.seed, 3, place])
            side = self._network.short_side_px
            width, height = (max(1, round(side * factor)) for factor in _ASPECTS[place % 3])
            photo = as_photographed(draw_interior(width, height, rng), rng)
            canvas = stack_canvases([self._network.canvas(photo)]).to(self._network.device)
            row = self._row(key[0], canvas, torch.empty(0, 4, device=self._network.device))
            self._keep(row, 0)
            return row
        return self._kept[key]

    def _keep(self, row: BoxBatch, view: int) -> None:
        num_bytes = row.features.numel() * row.features.element_size()
        if num_bytes <= self._room and (row.item_ids[0], view) not in self._kept:
            self._kept[row.item_ids[0], view] = row
            self._room -= num_bytes

    def _of_scene(self, batch: SceneBatch, place: int) -> BoxBatch:
        inputs = batch.inputs
        rows = slice(place, place + 1)
        own = [level[rows] for level in inputs] if isinstance(inputs, list) else inputs[rows]
        return self._row(batch.item_ids[place], own, batch.boxes_xyxy[place])

    @torch.inference_mode()
    def _row(self, item_id: str, inputs: Tensor | Maps, true_xyxy: Tensor) -> BoxBatch:
        """The examples of one photo, from its canvas or its maps."""
        network = self._network
        maps: Maps = inputs if isinstance(inputs, list) else network(inputs)
        (proposals,) = network.first_stage(maps, [network.canvas_px(maps)])
        best = proposals.boxes_xyxy[: self._settings.num_proposals]
        boxes = torch.cat([best, *_around(true_xyxy), around_pairs(true_xyxy)])
        features = network.box_head.features(maps, [boxes])
        overlaps, shifts = targets(boxes, true_xyxy, network.box_head.coder)
        return BoxBatch([item_id], features.half().cpu(), overlaps.cpu(), shifts.cpu())


def _around(true_xyxy: Float[Tensor, "K 4"]) -> list[Float[Tensor, "K 4"]]:
    sides = (true_xyxy[:, 2:] - true_xyxy[:, :2]).repeat(1, 2)
    return [true_xyxy + sides * sides.new_tensor(jitter) for jitter in JITTERS]


def around_pairs(true_xyxy: Float[Tensor, "K 4"]) -> Float[Tensor, "P 4"]:
    """The boxes around any two products that are near each other."""
    first, second = torch.triu_indices(len(true_xyxy), len(true_xyxy), offset=1)
    low = torch.minimum(true_xyxy[first, :2], true_xyxy[second, :2])
    high = torch.maximum(true_xyxy[first, 2:], true_xyxy[second, 2:])
    areas = (true_xyxy[:, 2:] - true_xyxy[:, :2]).prod(dim=1)
    near = areas[first] + areas[second] > MIN_PAIR_SHARE * (high - low).prod(dim=1)
    return torch.cat([low, high], dim=1)[near]


def _joined(rows: Sequence[BoxBatch]) -> BoxBatch:
    return BoxBatch(
        [item for row in rows for item in row.item_ids],
        torch.cat([row.features for row in rows]),
        torch.cat([row.overlaps for row in rows]),
        torch.cat([row.shifts for row in rows]),
    )
