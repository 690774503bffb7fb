"""Train a backbone in several ways, and measure retrieval by image alone before and after.

    python benchmarks/backbone.py SCENES TRAIN_ITEMS --seeds 0 1

For each seed: trained for proposals, and for proposals and instances (`detection.instances`: a
pasted product against its source photo, other photos of its group as positives). A frozen backbone
stays as it is before. The figure is that of `rpn_training`, `image_only/mAP@10`: strict mAP@10
among the pasted products of held-out scenes. The arguments are artifacts of one run: of
background_synthesis, and of ingestion's train items. Scenes have the size that `sample` trains at.
"""

import argparse
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from product1m.artifacts.folder import open_artifact
from product1m.config import RpnTrainingConfig
from product1m.config.loading import load_config
from product1m.data.items import ItemTable
from product1m.detection.instances import InstanceBatch, InstanceBatches, instance_losses
from product1m.detection.proposals import NetworkSettings, ProposalNetwork
from product1m.detection.same_products import image_only_map
from product1m.detection.scene_batches import SceneBatches, SceneBatchSettings, Scenes
from product1m.detection.scene_batches import losses as rpn_losses
from product1m.training.loop import TrainingPlan, train

VARIANTS = ("proposals", "proposals and instances", "instances")


class ScenesOfRun(Scenes):
    """Scenes whose source photos are read from the run's train items."""

    def __init__(self, scenes: Path, items: Path) -> None:
        super().__init__(open_artifact(scenes, "background_synthesis"))
        self._train_items = ItemTable(open_artifact(items, "ingestion"))

    def source_photos(self) -> ItemTable:
        """The train items."""
        return self._train_items


def losses(variant: str, network: ProposalNetwork, batch: InstanceBatch) -> dict[str, Tensor]:
    """The terms of a variant."""
    if variant == "proposals":
        return rpn_losses(network, batch.scenes)
    terms = instance_losses(network, batch, weight=1.0)
    return {"instances": terms["instances"]} if variant == "instances" else terms


def measured(options: argparse.Namespace, scenes: ScenesOfRun, variant: str, seed: int) -> str:
    """Figures of one training."""
    config: RpnTrainingConfig = load_config(options.preset).rpn_training
    changes = {
        "seed": seed,
        "trainable_stages": options.stages,
        "short_side_px": options.short_side_px,
        "long_side_px": options.short_side_px * 3 // 2,
    }
    config = config.model_copy(update=changes)
    held_out = scenes.split("held_out")
    torch.manual_seed(seed)
    network = ProposalNetwork(NetworkSettings.from_config(config), config.weights)
    network.box_head.requires_grad_(False)
    before = image_only_map(network.eval(), scenes, held_out)
    settings = replace(SceneBatchSettings.from_config(config), batch_size=options.batch_size)
    batches = SceneBatches(scenes, scenes.split("train"), settings)
    sides_px = config.short_side_px, config.long_side_px
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
            partial(losses, variant),
            InstanceBatches(batches, scenes, sides_px),
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
    parser.add_argument("--short-side-px", type=int, default=384)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS[:2])
    options = parser.parse_args()
    scenes = ScenesOfRun(options.scenes, options.items)
    for seed in options.seeds:
        for variant in options.variants:
            print(measured(options, scenes, variant, seed), flush=True)


if __name__ == "__main__":
    main()
