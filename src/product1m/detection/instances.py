"""Training a backbone to keep products apart: pasted products against their source photos (ours).

Proposals alone reward what products have in common (decision 3).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from product1m.data.geometry import Boxes
from product1m.data.items import item_groups
from product1m.detection.canvas import make_canvas, stack_canvases
from product1m.detection.pooling import BINS, pool
from product1m.detection.proposals import Maps, ProposalNetwork
from product1m.detection.scene_batches import SceneBatch, SceneBatches, Scenes
from product1m.detection.untrained_boxes import whole_image_box
from product1m.training import distributed

TEMPERATURE = 0.1
"""Divides the cosines (ours)."""
REDUCTION = 2
"""A source photo is half as large as a scene, so that its product is about as large (ours)."""


@dataclass(frozen=True)
class InstanceBatch:
    """Scenes with the photos that their products were cut from."""

    scenes: SceneBatch
    photos: UInt8[Tensor, "M 3 H W"]
    photo_boxes: list[Float[Tensor, "1 4"]]
    """The whole photo, in pixels of its canvas."""
    product_groups: Int[Tensor, " N"]
    """Numbers of the products of all scenes, scene by scene: equal where photos of one duplicate
    group were pasted."""
    photo_groups: Int[Tensor, " M"]

    @property
    def item_ids(self) -> list[str]:
        """The scenes."""
        return self.scenes.item_ids

    def to(self, device: torch.device) -> "InstanceBatch":
        """The batch on a device."""
        return replace(
            self,
            scenes=self.scenes.to(device),
            photos=self.photos.to(device),
            product_groups=self.product_groups.to(device),
            photo_groups=self.photo_groups.to(device),
        )


class InstanceBatches:
    """The batches of some scenes with source photos."""

    def __init__(self, batches: SceneBatches, scenes: Scenes, sides_px: tuple[int, int]) -> None:
        self._batches = batches
        self._photos = scenes.source_photos()
        self._sides_px = sides_px[0] // REDUCTION, sides_px[1] // REDUCTION
        ids = scenes.items.rows["id"].tolist()
        self._sources = dict(zip(ids, scenes.sources, strict=True))
        self._rows = {item: row for row, item in enumerate(self._photos.rows["id"].tolist())}

    def __call__(self, number: int) -> InstanceBatch:
        """This rank's share of batch `number`."""
        batch = self._batches(number)
        cut = [source for scene in batch.item_ids for source in self._sources[scene]]
        rows = np.array([self._rows[source] for source in cut], np.int64)
        different = np.unique(rows) if len(rows) else np.zeros(1, np.int64)
        photos = [self._photos.photo(int(row)) for row in different]
        canvases = [make_canvas(photo, *self._sides_px) for photo in photos]
        boxes: Sequence[Boxes] = [
            whole_image_box(*photo.shape[1::-1]) * canvas.scale()
            for photo, canvas in zip(photos, canvases, strict=True)
        ]
        return InstanceBatch(
            batch,
            stack_canvases(canvases),
            [torch.from_numpy(box) for box in boxes],
            torch.from_numpy(item_groups(self._photos.rows, rows)),
            torch.from_numpy(item_groups(self._photos.rows, different)),
        )


def instance_losses(
    network: ProposalNetwork, batch: InstanceBatch, weight: float, num_parts: int = 1
) -> dict[str, Tensor]:
    """The RPN's losses, and that of instances times `weight`; from the same maps of the scenes.

    Short memory does not split it: the maps of all scenes are needed at once.
    """
    scenes = batch.scenes
    maps = scenes.maps(network, slice(None))

    def some(rows: slice) -> Maps:
        return [level[rows] for level in maps]

    terms = network.losses_in_parts(some, scenes.boxes_xyxy, num_parts)
    stride = network.backbone.strides[-1]
    products = torch.cat(pool(maps[-1], scenes.boxes_xyxy, stride, BINS))
    photos = torch.cat(pool(network(batch.photos)[-1], batch.photo_boxes, stride, BINS))
    mean = instance_loss(products, photos, batch.product_groups, batch.photo_groups)
    return terms | {"instances": weight * distributed.weigh(mean, len(products))}


def instance_loss(
    products: Float[Tensor, "N F"],
    photos: Float[Tensor, "M F"],
    product_groups: Int[Tensor, " N"],
    photo_groups: Int[Tensor, " M"],
) -> Float[Tensor, ""]:
    """InfoNCE of pasted products: all photos of a product's group are its positives.

    The vectors are region vectors of products in scenes and of their source photos. What all of
    them have in common is subtracted, because it makes every cosine large. Every product's group
    has a photo. Mean over products and their positives, in nats; 0 without products.
    """
    center = torch.cat([products, photos]).mean(dim=0).detach()
    left, right = (functional.normalize(side - center, dim=1) for side in (products, photos))
    likely = functional.log_softmax(left @ right.T / TEMPERATURE, dim=1)
    positive = product_groups[:, None] == photo_groups[None]
    return -((likely * positive).sum(dim=1) / positive.sum(dim=1)).sum() / max(1, len(products))
