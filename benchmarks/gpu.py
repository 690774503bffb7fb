"""Measure the reference preset's trainings and feature extraction on a GPU, or on the CPU.

    python benchmarks/gpu.py [--json build/gpu.json] [--parts peak step …]

Sizes are those of the preset: ResNet-101, CAPTURE at 768 dimensions with 4/4/4/4 layers and 21,128
words, batches of 128 items and 128 pasted products, photos of 800 pixels. Inputs and weights are
invented. Without a GPU the same code runs on the CPU, with much less work, and the first line says
so.

- `peak`: a large matrix product in bfloat16 on this device, the limit that shares are of.
- `step`: pretraining on batches made beforehand.
- `loop`: pretraining with batches made from feature sets, as the step runs it.
- `extraction`: the step `feature_extraction` over photos, from JPEG to shards.
- `rpn`: training of the proposal network, and of its second stage, from JPEG scenes.
- `compiled`: as `step`, with every layer compiled by `torch.compile`.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pretraining_step import random_batch
from reference_inputs import write_features, write_photos, write_rpn, write_scenes
from released_model import F, V
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from product1m.artifacts.folder import open_artifact
from product1m.capture.batches import PretrainingBatch, PretrainingBatches
from product1m.capture.blocks import CrossAttentionBlock, PostNormBlock, PreNormBlock
from product1m.capture.network import Capture, build_capture, heads_for, network_sizes
from product1m.capture.pretext import pretext_losses
from product1m.capture.tokens import train_tokenizer
from product1m.config import Config, load_config
from product1m.data.regions import FeatureSet
from product1m.detection.box_training import BoxBatches, BoxBatchSettings, box_losses
from product1m.detection.proposals import NetworkSettings, ProposalNetwork, frozen_copy
from product1m.detection.scene_batches import SceneBatches, SceneBatchSettings, Scenes, losses
from product1m.steps import feature_extraction
from product1m.steps.capture_pretraining import batch_settings, pretext_tasks
from product1m.training import distributed
from product1m.training.exact import deterministic_kernels
from product1m.training.loop import TrainingPlan, train

REGIONS = (10, 36)
PARTS = ("peak", "step", "loop", "extraction", "rpn", "compiled")


@dataclass(frozen=True)
class Amount:
    """How much work is measured."""

    matrix: int
    batch_size: int
    steps: int
    items: int
    photos: int
    scenes: int
    rpn_steps: int
    rpn_batch_size: int

    @classmethod
    def for_device(cls, device: torch.device) -> "Amount":
        """Enough for a steady figure on a GPU; on a CPU enough to see that it runs."""
        if device.type == "cuda":
            return cls(8192, 128, 40, 2000, 3000, 512, 30, 16)
        return cls(1024, 8, 2, 32, 4, 8, 1, 2)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    rate: float
    unit: str
    share_of_peak: float | None = None
    memory_gib: float | None = None
    note: str = ""


class Measuring:
    """Everything that is measured, on one device."""

    def __init__(self, folder: Path, config: Config, amount: Amount) -> None:
        self.folder, self.config, self.amount = folder, config, amount
        self.device = distributed.device()
        self.peak_tflops = 0.0
        self.number = 0

    def peak(self) -> list[Row]:
        """The largest rate of a matrix product in bfloat16."""
        side = self.amount.matrix
        left, right = (
            torch.randn(side, side, device=self.device, dtype=torch.bfloat16) for _ in range(2)
        )
        seconds = min(self.seconds(lambda: left @ right) for _ in range(10))
        self.peak_tflops = 2 * side**3 / seconds / 1e12
        return [Row(f"matrix product {side} x {side}, bf16", self.peak_tflops, "TFLOP/s", 1.0)]

    def step(self) -> list[Row]:
        """Pretraining on batches that lie ready, with and without scene views."""
        return self._steps(compiled=False)

    def compiled(self) -> list[Row]:
        """The same with compiled layers."""
        return self._steps(compiled=True)

    def _steps(self, *, compiled: bool) -> list[Row]:
        rows = []
        size = self.amount.batch_size
        for views in (size, 0):
            batches = [random_batch(size, REGIONS, views, full=False) for _ in range(4)]
            capture = self.capture(V)
            flops = self.flops(capture, batches[0], views)
            if compiled:
                compile_layers(capture)
            name = f"pretraining step, {views} scene views{', compiled' if compiled else ''}"
            steps_per_s, memory = self.trained(
                capture, self.losses(views), partial(rotating, batches), self.amount.steps
            )
            achieved = flops * steps_per_s / 1e12
            share = achieved / self.peak_tflops if self.peak_tflops else None
            note = f"{achieved:.2f} TFLOP/s, {1e3 / steps_per_s:.1f} ms a step"
            rows.append(Row(name, size * steps_per_s, "items/s", share, memory, note))
        return rows

    def loop(self) -> list[Row]:
        """Pretraining as the step runs it: batches from feature sets, scene contrast on."""
        folder = self.folder / "features"
        write_features(folder, self.amount.items, F, REGIONS)
        items, scenes = (
            FeatureSet(open_artifact(folder / part, "feature_extraction", part))
            for part in ("train", "scenes")
        )
        section = self.config.capture_pretraining
        words = train_tokenizer(items.rows["caption"].tolist(), V)
        settings = replace(batch_settings(section), batch_size=self.amount.batch_size)
        settings = replace(settings, scene_batch_size=self.amount.batch_size)
        batches = PretrainingBatches(items, scenes, words, settings)
        started = time.perf_counter()
        made = [batches(number) for number in range(3)]
        batch_ms = (time.perf_counter() - started) / 3 * 1e3
        capture = self.capture(words.vocabulary_size)
        steps_per_s, memory = self.trained(
            capture, self.losses(self.amount.batch_size), batches, self.amount.steps
        )
        note = f"making a batch of {len(made[0].pairs)} pairs: {batch_ms:.0f} ms"
        rate = self.amount.batch_size * steps_per_s
        return [Row("pretraining, whole loop", rate, "items/s", None, memory, note)]

    def extraction(self) -> list[Row]:
        """The step `feature_extraction`, decoding and writing included."""
        section = self.config.feature_extraction
        write_rpn(self.folder / "rpn", self.config.rpn_training)
        seconds = []
        for name, count in (
            ("warm", min(self.amount.photos, 2 * section.batch_size)),
            ("photos", self.amount.photos),
        ):
            write_photos(self.folder / name, count, 800)
            self.reset_memory()
            started = time.perf_counter()
            feature_extraction.run(
                self.folder / name, self.folder / "rpn", self.folder / f"{name}-features", section
            )
            seconds.append(time.perf_counter() - started)
        rate = self.amount.photos / seconds[-1]
        return [Row("feature extraction", rate, "photos/s", None, self.memory_gib())]

    def rpn(self) -> list[Row]:
        """Both stages of RPN training, decoding included."""
        section = self.config.rpn_training
        write_scenes(self.folder / "scenes", self.amount.scenes, self.config.background_synthesis)
        scenes = Scenes(open_artifact(self.folder / "scenes", "background_synthesis"))
        size = self.amount.rpn_batch_size
        settings = replace(SceneBatchSettings.from_config(section), num_epochs=100, batch_size=size)
        batches = SceneBatches(scenes, scenes.split("train"), settings)
        network = ProposalNetwork(NetworkSettings.from_config(section), "none")
        network.backbone.requires_grad_(False)
        network.box_head.requires_grad_(False)
        with deterministic_kernels(self.device):
            first = self.trained(network, losses, batches, self.amount.rpn_steps)
        network.box_head.requires_grad_(True)
        box_settings = replace(BoxBatchSettings.from_config(section), max_mib=0)
        boxes = BoxBatches(batches, frozen_copy(network), box_settings)
        second = self.trained(network.box_head, box_losses, boxes, self.amount.rpn_steps)
        return [
            Row(name, size * rate, "scenes/s", None, memory)
            for name, (rate, memory) in (("RPN training", first), ("its second stage", second))
        ]

    def capture(self, vocabulary_size: int) -> Capture:
        """The reference network."""
        torch.manual_seed(0)
        section = self.config.capture_pretraining
        return build_capture(network_sizes(section), heads_for(section), vocabulary_size, F)

    def losses(self, views: int) -> Callable[..., dict[str, Tensor]]:
        """The preset's losses, without the scene contrast if there are no views."""
        tasks = pretext_tasks(self.config.capture_pretraining)
        tasks = tasks if views else replace(tasks, scene_contrast=0.0)

        def computed(
            capture: Capture, batch: PretrainingBatch, num_parts: int = 1
        ) -> dict[str, Tensor]:
            return pretext_losses(capture, batch, tasks, num_parts)

        return computed

    def flops(self, capture: Capture, batch: PretrainingBatch, views: int) -> int:
        """Operations of matrix products in a step, forward and backward."""
        capture.to(self.device).train()
        with FlopCounterMode(display=False) as counter:
            with torch.autocast(self.device.type, torch.bfloat16):
                terms = self.losses(views)(capture, batch.to(self.device))
            torch.autograd.backward(torch.stack([term.float() for term in terms.values()]).sum())
        capture.zero_grad(set_to_none=True)
        return int(counter.get_total_flops())

    def trained(
        self,
        module: nn.Module,
        losses: Callable[..., dict[str, Tensor]],
        batch_at: Callable[[int], Any],
        steps: int,
    ) -> tuple[float, float | None]:
        """Steps a second of the training loop after a warm-up, and peak memory in GiB."""
        warm_up = max(1, steps // 2)
        last = warm_up + steps
        plan = TrainingPlan(
            num_steps=last,
            learning_rate=1e-4,
            precision=self.config.capture_pretraining.precision,
            checkpoint_interval_steps=10**6,
            report_interval_steps=warm_up,
        )
        times: dict[int, float] = {}

        def note(step: int, _: dict[str, float]) -> None:
            self.wait()
            times[step] = time.perf_counter()

        self.number += 1
        self.reset_memory()
        work = self.folder / f"work-{self.number}"
        train(module, losses, batch_at, plan, work=work, report=note, max_parts=16)
        return steps / (times[last] - times[warm_up]), self.memory_gib()

    def seconds(self, work: Callable[[], object]) -> float:
        """One call, after one that is not counted."""
        work()
        self.wait()
        started = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - started

    def wait(self) -> None:
        """Until the device has done what it was asked for."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def reset_memory(self) -> None:
        """Start measuring the peak again."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def memory_gib(self) -> float | None:
        """Peak of the device's memory since then; None on a CPU."""
        if self.device.type != "cuda":
            return None
        return torch.cuda.max_memory_allocated() / 2**30


def rotating(batches: Sequence[PretrainingBatch], number: int) -> PretrainingBatch:
    return batches[number % len(batches)]


def compile_layers(network: nn.Module) -> None:
    """Compile every layer by itself, for any number of tokens."""
    for module in network.modules():
        if isinstance(module, PostNormBlock | CrossAttentionBlock | PreNormBlock):
            module.compile(dynamic=True)


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"no GPU here: CPU, {torch.get_num_threads()} threads, torch {torch.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    device = distributed.device()
    print(device_name(device), flush=True)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        measuring = Measuring(Path(folder), load_config("reference"), Amount.for_device(device))
        for part in PARTS:
            if part not in arguments.parts:
                continue
            for row in getattr(measuring, part)():
                rows.append(row)
                print(line(row), flush=True)
    if arguments.json:
        content = {"device": device_name(device), "rows": [vars(row) for row in rows]}
        arguments.json.write_text(json.dumps(content, indent=2), "utf-8")


def line(row: Row) -> str:
    share = "" if row.share_of_peak is None else f"{row.share_of_peak:.0%} of the peak"
    memory = "" if row.memory_gib is None else f"{row.memory_gib:.1f} GiB"
    return f"{row.name:42} {row.rate:9.2f} {row.unit:9} {share:16} {memory:10} {row.note}"


if __name__ == "__main__":
    main()
