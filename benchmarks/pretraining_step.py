"""Time a pretraining step at reference sizes against the design of the released model.

    python benchmarks/pretraining_step.py [--batch-size 16] [--steps 3] [--regions 10 36]

Both train on the same titles and regions with the same three tasks (masked language, masked
regions, contrast) and AdamW. The released design is written here from its description: every title
padded to 36 tokens and every photo to 37 regions, attention as explicit products, six joint layers,
512-d projections of every token, prediction heads on all positions, float32. Ours is the default
configuration, with and without the scene contrast, which the released model does not have. With it
a step has as many pasted products for each item as the default, and none of their source photos is
among the step's items, which is the most that it costs. Titles are as long as in Product1M (mean
27.6 tokens with [CLS] and [SEP]); the number of regions is uniform between the two given numbers,
by default 10 and 36 as in the paper. Beside the times stand the operations of the matrix products
of a step, and their rate as a share of that of one large product: what cannot be gained by other
kernels.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from product1m.capture.batches import PretrainingBatch
from product1m.capture.losses import released_contrastive_loss
from product1m.capture.masking import Masking
from product1m.capture.network import build_capture, heads_for, network_sizes
from product1m.capture.pairs import Pairs
from product1m.capture.pretext import pretext_losses
from product1m.config import CapturePretrainingConfig
from product1m.steps.capture_pretraining import pretext_tasks
from product1m.training.optimizer import ParameterGroup, make_optimizer

T, R, V, F, D, E = 36, 37, 21_128, 2048, 768, 512
JOINT_LAYERS, OTHER_LAYERS = 6, 4


class ReleasedAttention(nn.Module):
    """Attention as explicit products over padded sequences, with low scores for padding."""

    def __init__(self, inner: int, heads: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(D, inner) for _ in range(3))
        self.out, self.heads = nn.Linear(inner, D), heads
        self.dropout = nn.Dropout(0.1)

    def forward(self, queries: Tensor, context: Tensor, padding: Tensor) -> Tensor:
        """Attend to `context`; `padding` is True where there is none."""
        q, k, v = (
            rows.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for rows in (self.query(queries), self.key(context), self.value(context))
        )
        scores = q @ k.transpose(2, 3) / q.shape[3] ** 0.5
        scores = scores - 10_000.0 * padding[:, None, None, :]
        mixed = self.dropout(scores.softmax(3)) @ v
        attended: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return attended


class Layer(nn.Module):
    """Attention and feed-forward, with norms after (as in BERT) or before (as in joint layers)."""

    def __init__(self, inner: int, heads: int, ffn: int, norm_first: bool = False) -> None:
        super().__init__()
        self.attention = ReleasedAttention(inner, heads)
        self.ffn = nn.Sequential(nn.Linear(D, ffn), nn.GELU(), nn.Linear(ffn, D))
        self.norms = nn.ModuleList(nn.LayerNorm(D) for _ in range(2))
        self.dropout, self.norm_first = nn.Dropout(0.1), norm_first

    def forward(self, hidden: Tensor, context: Tensor | None, padding: Tensor) -> Tensor:
        """Without a context the rows attend to themselves."""
        first, second = self.norms
        if self.norm_first:
            normed = first(hidden)
            hidden = hidden + self.attention(normed, normed, padding)
            residual: Tensor = hidden + self.ffn(second(hidden))
            return residual
        attended = self.attention(hidden, hidden if context is None else context, padding)
        hidden = first(hidden + self.dropout(attended))
        out: Tensor = second(hidden + self.dropout(self.ffn(hidden)))
        return out


class ReleasedDesign(nn.Module):
    """The network as `docs/reproduction.md` describes the released one."""

    def __init__(self) -> None:
        super().__init__()
        self.word, self.place = nn.Embedding(V, D), nn.Parameter(torch.zeros(T, D))
        self.feature, self.box = nn.Linear(F, D), nn.Linear(5, D)
        self.norms = nn.ModuleList(nn.LayerNorm(D) for _ in range(2))
        n = OTHER_LAYERS
        self.text = nn.ModuleList(Layer(D, 12, 3072) for _ in range(n))
        self.visual = nn.ModuleList(Layer(D, 8, 1024) for _ in range(n))
        self.to_text = nn.ModuleList(Layer(512, 8, 3072) for _ in range(n))
        self.to_visual = nn.ModuleList(Layer(512, 8, 1024) for _ in range(n))
        self.joint = nn.ModuleList(Layer(D, 8, 3072, True) for _ in range(JOINT_LAYERS))
        self.joint_place = nn.Parameter(torch.zeros(T + R, D))
        self.pools = nn.ModuleList(nn.Linear(D, E) for _ in range(4))
        self.language = nn.Sequential(nn.Linear(E, D), nn.Linear(D, D), nn.GELU(), nn.LayerNorm(D))
        self.regions = nn.Sequential(
            nn.Linear(E, D), nn.Linear(D, D), nn.GELU(), nn.LayerNorm(D), nn.Linear(D, F)
        )

    def forward(self, batch: PretrainingBatch) -> dict[str, Tensor]:
        """The three losses of a batch."""
        pairs, masking = batch.pairs, batch.masking
        features = pairs.features.float()
        text_pad, region_pad = pairs.text_padding, pairs.region_padding
        text = self.norms[0](self.word(masking.tokens) + self.place)
        shown = features.masked_fill(masking.hidden_regions[:, :, None], 0)
        visual = self.norms[1](self.feature(shown) + self.box(pairs.places))
        for layer in self.text:
            text = layer(text, None, text_pad)
        for layer in self.visual:
            visual = layer(visual, None, region_pad)
        title, photo = self.pools[0](text[:, 0]).relu(), self.pools[1](visual[:, 0]).relu()
        for to_text, to_visual in zip(self.to_text, self.to_visual, strict=True):
            text, visual = to_text(text, visual, region_pad), to_visual(visual, text, text_pad)
        both = torch.cat([text, visual], 1) + self.joint_place
        for layer in self.joint:
            both = layer(both, None, torch.cat([text_pad, region_pad], 1))
        words = self.language(self.pools[2](both[:, :T]).relu()) @ self.word.weight.T
        regions = self.regions(self.pools[3](both[:, T:]).relu())
        chosen, masked = masking.masked_tokens, masking.masked_regions
        # Predictions and losses are computed at every position, masked or not, as released.
        language = functional.cross_entropy(
            words.flatten(0, 1), pairs.tokens.masked_fill(~chosen, -1).flatten(), ignore_index=-1
        )
        squares = (regions - features) ** 2 * masked[:, :, None]
        return {
            "masked_language": language,
            "masked_region": squares.sum() / masked.sum().clamp(min=1) / F,
            "contrast": released_contrastive_loss(title, photo, batch.groups, 0.07),
        }


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


def seconds_a_step(
    network: nn.Module, losses: Losses, batch: PretrainingBatch, steps: int, bf16: bool = False
) -> tuple[float, float]:
    """Median wall and processor time of forward, backward and update, after one warm-up step.

    On a busy machine processor time is the better measure.
    """
    optimizer = make_optimizer([ParameterGroup(list(network.parameters()))], 1e-4, 0.01)
    network.train()
    seconds = []
    for _ in range(steps + 1):
        started = time.perf_counter(), time.process_time()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            total = torch.stack([term.float() for term in losses(batch).values()]).sum()
        torch.autograd.backward(total)
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
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
) -> Step:
    """Time some steps, and count the operations of one."""
    seconds = seconds_a_step(network, losses, batch, steps, precision == "bf16")
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
    """Our step."""
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
    released = ReleasedDesign()
    batch = random_batch(size, regions, 0, full=True)
    base = measure(released, released, batch, steps)
    del released
    timed = {"released design, float32": base}
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
