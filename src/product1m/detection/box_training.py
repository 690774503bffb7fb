"""What the second stage is trained on: a frozen proposal network's proposals on the scenes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from product1m.detection.box_head import BoxHead, head_losses, targets
from product1m.detection.proposals import Maps, ProposalNetwork
from product1m.detection.scene_batches import SceneBatch, SceneBatches

JITTERS = ((0, 0, 0, 0), (-0.12, -0.08, -0.12, -0.08), (0.08, 0.12, 0.08, 0.12),
           (-0.1, -0.1, 0.1, 0.1), (0.1, 0.1, -0.1, -0.1))  # fmt: skip
"""Shifts of a product's corners, relative to its sides, that give further examples of it (ours)."""


@dataclass(frozen=True)
class BoxBatch:
    """Boxes on some scenes, and what the head should say of each."""

    item_ids: list[str]
    features: Float[Tensor, "A F"]
    is_product: Float[Tensor, " A"]
    shifts: Float[Tensor, "A 4"]

    def to(self, device: torch.device) -> "BoxBatch":
        """The batch on a device."""
        return BoxBatch(
            self.item_ids,
            self.features.to(device),
            self.is_product.to(device),
            self.shifts.to(device),
        )


def box_losses(head: BoxHead, batch: BoxBatch) -> dict[str, Tensor]:
    """The second stage's losses on a batch."""
    return head_losses(head, batch.features.float(), batch.is_product, batch.shifts)


class BoxBatches:
    """This rank's part of batch number i of the scenes, as boxes with their features.

    Features of scenes whose maps are cached are computed once, as far as memory allows.
    """

    def __init__(
        self, scenes: SceneBatches, network: ProposalNetwork, num_proposals: int, max_mib: int
    ) -> None:
        self._scenes = scenes
        self._network = network
        self._num_proposals = num_proposals
        self._room = max_mib << 20 if scenes.num_views else 0
        self._kept: dict[tuple[str, int], BoxBatch] = {}

    def __call__(self, number: int) -> BoxBatch:
        """This rank's share of batch `number`."""
        view = number % max(1, self._scenes.num_views)
        ids = self._scenes.item_ids(number)
        if all((item, view) in self._kept for item in ids):
            return _joined([self._kept[item, view] for item in ids])
        batch = self._scenes(number).to(self._network.device)
        rows = [self._row(batch, place) for place in range(len(ids))]
        for row in rows:
            num_bytes = row.features.numel() * 2
            if num_bytes <= self._room and (row.item_ids[0], view) not in self._kept:
                self._kept[row.item_ids[0], view] = row
                self._room -= num_bytes
        return _joined(rows)

    @torch.inference_mode()
    def _row(self, batch: SceneBatch, place: int) -> BoxBatch:
        network, true_xyxy = self._network, batch.boxes_xyxy[place]
        maps: Maps = (
            [level[place : place + 1] for level in batch.inputs]
            if isinstance(batch.inputs, list)
            else network(batch.inputs[place : place + 1])
        )
        canvas_px = network.canvas_px(maps)
        pyramid = network.pyramid(maps)
        (proposals,) = network.first_stage(maps, pyramid, [canvas_px])
        boxes = torch.cat([proposals.boxes_xyxy[: self._num_proposals], *_around(true_xyxy)])
        features = network.box_head.features(pyramid[: len(maps)], [boxes], canvas_px)
        is_product, shifts = targets(boxes, true_xyxy, network.box_head.coder)
        return BoxBatch(
            [batch.item_ids[place]], features.half().cpu(), is_product.cpu(), shifts.cpu()
        )


def _around(true_xyxy: Float[Tensor, "K 4"]) -> list[Float[Tensor, "K 4"]]:
    sides = (true_xyxy[:, 2:] - true_xyxy[:, :2]).repeat(1, 2)
    return [true_xyxy + sides * sides.new_tensor(jitter) for jitter in JITTERS]


def _joined(rows: Sequence[BoxBatch]) -> BoxBatch:
    return BoxBatch(
        [item for row in rows for item in row.item_ids],
        torch.cat([row.features for row in rows]),
        torch.cat([row.is_product for row in rows]),
        torch.cat([row.shifts for row in rows]),
    )
