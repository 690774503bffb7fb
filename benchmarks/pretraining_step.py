"""Time a pretraining step at reference sizes against the released model.

    python benchmarks/pretraining_step.py [--batch-size 16] [--steps 3] [--regions 10 36]

Both train on the same titles and regions with the same three tasks (masked language, masked
regions, contrast). The released model (`released_model.py`) has the operations and the optimizer of
the released code, in float32; beside it, the same design with PyTorch's fused kernels and our
optimizer. Ours is the default configuration as training runs it, with and without the scene
contrast, which the released model does not have. With it a step has as many pasted products for
each item as the default, and none of their source photos is among the step's items, which is the
most that it costs. Titles are as long as in Product1M (mean 27.6 tokens with [CLS] and [SEP]); the
number of regions is uniform between the two given numbers, by default 10 and 36 as in the paper.
Beside the times stand the operations of the matrix products of a step, and their rate as a share of
that of one large product: what cannot be gained by other kernels.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from released_model import F, R, ReleasedModel, ReleasedOptimizer, T, V
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from product1m.capture.batches import PretrainingBatch
from product1m.capture.masking import Masking
from product1m.capture.network import build_capture, heads_for, network_sizes
from product1m.capture.pairs import Pairs
from product1m.capture.pretext import pretext_losses
from product1m.config import CapturePretrainingConfig
from product1m.steps.capture_pretraining import pretext_tasks
from product1m.training.memory import keep_freed_memory
from product1m.training.optimizer import ParameterGroup, make_optimizer


def random_batch(
    size: int, regions: tuple[int, int], num_views: int, full: bool
) -> PretrainingBatch:
    """Titles and regions of real lengths, padded to 36 and 37 if `full`, else to the longest."""
    generator = torch.Generator().manual_seed(0)
    rows = size + 2 * num_views
    lengths = (27.6 + 5 * torch.randn(rows, generator=generator)).round().clamp(8, T).long()
    counts = torch.randint(regions[0], regions[1] + 1, (rows,), generator=generator) + 1
    counts[size + num_views :] = torch.randint(1, 8, (num_views,), generator=generator)
    tokens = torch.randint(1000, V, (rows, T), generator=generator)
    features = torch.randn(rows, R, F, generator=generator).half()
    places = torch.rand(rows, R, 5, generator=generator)
    chances = torch.rand(rows, T, generator=generator), torch.rand(rows, R, generator=generator)
    text_padding = torch.arange(T) >= lengths[:, None]
    region_padding = torch.arange(R) >= counts[:, None]
    item = (torch.arange(rows) < size)[:, None]
    words = (chances[0] < 0.15) & ~text_padding & item
    masked = (chances[1] < 0.15) & ~region_padding & item
    t, r = (T, R) if full else (int(lengths.max()), int(counts.max()))
    pairs = Pairs(
        tokens[:, :t], text_padding[:, :t], features[:, :r], places[:, :r], region_padding[:, :r]
    )
    shown = tokens.masked_fill(words, 103)[:, :t]
    masking = Masking(shown, words[:, :t], masked[:, :r], masked[:, :r])
    sources = torch.arange(size, size + num_views)
    return PretrainingBatch(pairs, masking, torch.arange(size + num_views), sources, size, [])


Losses = Callable[[PretrainingBatch], dict[str, Tensor]]


def our_update(network: nn.Module) -> Callable[[], None]:
    """Clips the gradients and updates the weights as training does."""
    optimizer = make_optimizer([ParameterGroup(list(network.parameters()))], 1e-4, 0.01)

    def update() -> None:
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()

    return update


def seconds_a_step(
    network: nn.Module,
    losses: Losses,
    batch: PretrainingBatch,
    steps: int,
    bf16: bool,
    update: Callable[[], None],
) -> tuple[float, float]:
    """Median wall and processor time of forward, backward and update, after one warm-up step.

    On a busy machine processor time is the better measure.
    """
    network.train()
    seconds = []
    for _ in range(steps + 1):
        started = time.perf_counter(), time.process_time()
        network.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            total = torch.stack([term.float() for term in losses(batch).values()]).sum()
        torch.autograd.backward(total)
        update()
        seconds.append((time.perf_counter() - started[0], time.process_time() - started[1]))
    wall, processor = zip(*seconds[1:], strict=True)
    return statistics.median(wall), statistics.median(processor)


@dataclass(frozen=True)
class Step:
    """What a step takes."""

    wall_s: float
    processor_s: float
    operations: float
    """Of its matrix products, an addition and a multiplication as two."""
    precision: str


def measure(
    network: nn.Module,
    losses: Losses,
    batch: PretrainingBatch,
    steps: int,
    precision: str = "float32",
    update: Callable[[], None] | None = None,
) -> Step:
    """Time some steps, and count the operations of one."""
    update = update or our_update(network)
    seconds = seconds_a_step(network, losses, batch, steps, precision == "bf16", update)
    with FlopCounterMode(display=False) as counter:
        torch.autograd.backward(torch.stack(list(losses(batch).values())).sum())
    return Step(*seconds, counter.get_total_flops(), precision)


def peak_rate(precision: str) -> float:
    """Operations in a second of processor time of products as large as a layer's."""
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = torch.randn(2048, 768).to(kind), torch.randn(768, 3072).to(kind)
    rates = []
    for _ in range(8):
        started = time.process_time()
        left @ right
        rates.append(2 * 2048 * 768 * 3072 / (time.process_time() - started))
    return max(rates)


def time_ours(
    size: int, steps: int, regions: tuple[int, int], precision: str, num_views: int = 0
) -> Step:
    """Our step, in a process that keeps freed memory as `train` has it."""
    keep_freed_memory(torch.device("cpu"))
    changes = {"scene_contrast_weight": float(num_views > 0), "precision": precision}
    config = CapturePretrainingConfig().model_copy(update=changes)
    network = build_capture(network_sizes(config), heads_for(config), V, F)
    tasks = pretext_tasks(config)
    batch = random_batch(size, regions, num_views, full=False)

    def losses(batch: PretrainingBatch) -> dict[str, Tensor]:
        return pretext_losses(network, batch, tasks)

    return measure(network, losses, batch, steps, precision)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time a pretraining step at reference sizes.")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--regions", type=int, nargs=2, default=(10, 36))
    arguments = parser.parse_args()
    size, steps = arguments.batch_size, arguments.steps
    regions = (arguments.regions[0], arguments.regions[1])
    batch = random_batch(size, regions, 0, full=True)
    released = ReleasedModel()
    update = ReleasedOptimizer(list(released.parameters()), 1e-4).step
    base = measure(released, released, batch, steps, update=update)
    del released, update
    design = ReleasedModel(fused=True)
    timed = {"released model, float32": base}
    timed["its design, fused kernels, float32"] = measure(design, design, batch, steps)
    del design
    default = CapturePretrainingConfig()
    num_views = round(size * default.scene_batch_size / default.batch_size)
    for precision in ("float32", "bf16"):
        timed[f"ours, {precision}, no scene contrast"] = time_ours(size, steps, regions, precision)
        timed[f"ours, {precision}, {num_views} pasted products"] = time_ours(
            size, steps, regions, precision, num_views
        )
    print(f"{torch.get_num_threads()} threads, batch {size}, {regions} regions")
    peaks = {precision: peak_rate(precision) for precision in ("float32", "bf16")}
    for name, step in timed.items():
        rate = step.operations / step.processor_s
        print(
            f"{name:38} {size / step.wall_s:6.2f} samples/s  x {base.wall_s / step.wall_s:.2f} wall"
            f"  x {base.processor_s / step.processor_s:.2f} processor"
            f"  x {base.operations / step.operations:.2f} operations"
            f"  {rate / peaks[step.precision]:.2f} of {peaks[step.precision] / 1e9:.0f} G/s"
        )


if __name__ == "__main__":
    main()
