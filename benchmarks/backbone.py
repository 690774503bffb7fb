"""Train a backbone in several ways, and measure retrieval by image alone before and after.

    python benchmarks/backbone.py SCENES TRAIN_ITEMS --seeds 0 1

For each seed: trained for proposals, and for proposals and instances (`instance_loss`: a pasted
product against its source photo, other photos of its group as positives). A frozen backbone stays
as it is before. The figure is that of `rpn_training`, `image_only/mAP@10`: strict mAP@10 among the
pasted products of held-out scenes. The arguments are artifacts of one run: of background_synthesis,
and of ingestion's train items. Scenes have the size that `sample` trains at.
"""

import argparse
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from product1m.artifacts.folder import open_artifact
from product1m.config import RpnTrainingConfig
from product1m.config.loading import load_config
from product1m.data.items import ItemTable
from product1m.detection.canvas import make_canvas, stack_canvases
from product1m.detection.instance_loss import instance_loss
from product1m.detection.pooling import pool
from product1m.detection.proposals import NetworkSettings, ProposalNetwork
from product1m.detection.same_products import image_only_map
from product1m.detection.scene_batches import SceneBatch, SceneBatches, SceneBatchSettings, Scenes
from product1m.detection.untrained_boxes import whole_image_box
from product1m.training.loop import TrainingPlan, train

VARIANTS = {"proposals": 0.0, "proposals and instances": 1.0, "instances": 1.0}
"""Weight of the instances' loss."""
BINS = 7
REDUCTION = 2
"""A source photo is half as large as a scene: its product is then about as large."""


@dataclass(frozen=True)
class InstanceBatch:
    """Scenes, and the photos that their products were cut from."""

    scenes: SceneBatch
    photos: UInt8[Tensor, "M 3 H W"]
    photo_boxes: list[Tensor]
    product_groups: Int[Tensor, " N"]
    photo_groups: Int[Tensor, " M"]

    @property
    def item_ids(self) -> list[str]:
        """The scenes."""
        return self.scenes.item_ids

    def to(self, device: torch.device) -> "InstanceBatch":
        """The batch on a device."""
        return replace(self, scenes=self.scenes.to(device), photos=self.photos.to(device))


class InstanceBatches:
    """The batches of `SceneBatches` with source photos."""

    def __init__(
        self, batches: SceneBatches, scenes: Scenes, items: ItemTable, sides_px: tuple[int, int]
    ) -> None:
        self.batches, self.items, self.sides_px = batches, items, sides_px
        self.sources = dict(zip(scenes.items.rows["id"], scenes.sources, strict=True))
        self.rows = {item: row for row, item in enumerate(items.rows["id"].tolist())}
        groups = items.rows["group"].to_numpy(np.int64)
        self.groups = np.where(groups >= 0, groups, -1 - np.arange(len(groups)))

    def __call__(self, number: int) -> InstanceBatch:
        """Batch `number`."""
        batch = self.batches(number)
        cut = np.concatenate([self.sources[scene] for scene in batch.item_ids])
        rows = np.array([self.rows[item] for item in cut])
        different = np.unique(rows)
        sides = self.sides_px
        photos = [self.items.photo(int(row)) for row in different]
        canvases = [make_canvas(photo, *sides) for photo in photos]
        boxes = [
            torch.from_numpy(whole_image_box(*photo.shape[1::-1]) * canvas.scale())
            for photo, canvas in zip(photos, canvases, strict=True)
        ]
        return InstanceBatch(
            batch,
            stack_canvases(canvases),
            boxes,
            torch.from_numpy(self.groups[rows]),
            torch.from_numpy(self.groups[different]),
        )


def losses(variant: str, network: ProposalNetwork, batch: InstanceBatch) -> dict[str, Tensor]:
    """The terms of a variant."""
    scenes = batch.scenes
    maps = scenes.maps(network, slice(None))
    terms = network.losses(maps, scenes.boxes_xyxy) if variant.startswith("proposals") else {}
    if VARIANTS[variant]:
        stride = network.backbone.strides[-1]
        products = torch.cat(pool(maps[-1], scenes.boxes_xyxy, stride, BINS))
        photos = torch.cat(pool(network(batch.photos)[-1], batch.photo_boxes, stride, BINS))
        groups = batch.product_groups, batch.photo_groups
        terms["instances"] = VARIANTS[variant] * instance_loss(products, photos, *groups)
    return terms


def measured(
    options: argparse.Namespace, scenes: Scenes, items: ItemTable, variant: str, seed: int
) -> str:
    """Figures of one training."""
    config: RpnTrainingConfig = load_config(options.preset).rpn_training
    config = config.model_copy(update={"seed": seed, "trainable_stages": options.stages})
    held_out = scenes.split("held_out")
    torch.manual_seed(seed)
    network = ProposalNetwork(NetworkSettings.from_config(config), config.weights)
    network.box_head.requires_grad_(False)
    before = image_only_map(network.eval(), scenes, held_out)
    settings = replace(SceneBatchSettings.from_config(config), batch_size=options.batch_size)
    batches = SceneBatches(scenes, scenes.split("train"), settings)
    sides_px = config.short_side_px // REDUCTION, config.long_side_px // REDUCTION
    plan = TrainingPlan(
        num_steps=options.steps,
        learning_rate=options.learning_rate,
        weight_decay=config.weight_decay,
        warmup_share=config.warmup_share,
        seed=seed,
    )
    with tempfile.TemporaryDirectory() as work:
        curve = train(
            network,
            lambda network, batch: losses(variant, network, batch),
            InstanceBatches(batches, scenes, items, sides_px),
            plan,
            work=Path(work),
            report=lambda *_: None,
        )
    after = image_only_map(network.eval(), scenes, held_out)
    last = ", ".join(f"{k} {v:.3f}" for k, v in curve[-1].items() if k in ("boxes", "instances"))
    return f"seed {seed}, {variant:24} image only {before:.3f} -> {after:.3f}   ({last})"


def main() -> None:
    parser = argparse.ArgumentParser(description="What training does to a backbone.")
    parser.add_argument("scenes", type=Path, help="artifact of background_synthesis")
    parser.add_argument("items", type=Path, help="train artifact of ingestion")
    parser.add_argument("--preset", default="sample")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=68)
    parser.add_argument("--stages", type=int, default=3, help="rpn_training.trainable_stages")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS)[:2])
    options = parser.parse_args()
    scenes = Scenes(open_artifact(options.scenes, "background_synthesis"))
    items = ItemTable(open_artifact(options.items, "ingestion"))
    for seed in options.seeds:
        for variant in options.variants:
            print(measured(options, scenes, items, variant, seed), flush=True)


if __name__ == "__main__":
    main()
