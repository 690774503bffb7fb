"""Ranks that share a batch compute the gradients of one process with the whole batch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from product1m.artifacts.folder import open_artifact
from product1m.capture.batches import PretrainingBatch, PretrainingBatches, feature_moments
from product1m.capture.masking import Masking
from product1m.capture.network import Capture, build_capture, heads_for, network_sizes
from product1m.capture.pairs import Pairs
from product1m.capture.pretext import PretextTasks, pretext_losses
from product1m.capture.tokens import train_tokenizer
from product1m.config import CapturePretrainingConfig
from product1m.data.regions import FeatureSet
from product1m.steps.capture_pretraining import batch_settings, pretext_tasks
from tests.support.worlds.feature_artifacts import PRETRAINING, make_features
from tests.support.worlds.ranks import on_ranks

CONFIG = PRETRAINING.model_copy(
    update={"dropout": 0.0, "attention_dropout": 0.0, "batch_size": 13, "scene_batch_size": 7}
)
"""Odd sizes, so that two ranks hold different numbers of rows; no randomness in the network."""
TOLERANCE = 1e-6
"""Of a gradient, relative to the largest: two orders of summation in float32."""


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureSet, FeatureSet]:
    train, scenes = make_features(tmp_path_factory.mktemp("features"))
    return (
        FeatureSet(open_artifact(train, "feature_extraction", "train")),
        FeatureSet(open_artifact(scenes, "feature_extraction", "scenes")),
    )


def make_batches(
    sets: tuple[FeatureSet, FeatureSet], config: CapturePretrainingConfig
) -> PretrainingBatches:
    tokenizer = train_tokenizer(sets[0].rows["caption"].tolist(), 200)
    return PretrainingBatches(*sets, tokenizer, batch_settings(config))


def make_capture(items: FeatureSet, config: CapturePretrainingConfig) -> Capture:
    torch.manual_seed(0)
    capture = build_capture(network_sizes(config), heads_for(config), 200, items.feature_dim)
    mean, deviation = feature_moments(items)
    capture.standardization.fit(torch.from_numpy(mean), torch.from_numpy(deviation))
    return capture


class Objective(nn.Module):
    def __init__(self, capture: Capture, tasks: PretextTasks) -> None:
        super().__init__()
        self.capture, self.tasks = capture, tasks

    def forward(self, batch: PretrainingBatch) -> dict[str, Tensor]:
        return pretext_losses(self.capture, batch, self.tasks)


def gradients(capture: Capture) -> dict[str, Tensor]:
    return {
        name: parameter.grad
        for name, parameter in capture.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"contrast": "released", "scene_contrast_weight": 0.0},
        # One item a rank, so that only the photo of the other rank can be wrong.
        {"batch_size": 2, "image_text_matching_weight": 1.0, "scene_contrast_weight": 0.0},
    ],
)
def test_two_ranks_have_the_gradients_of_one_process(
    sets: tuple[FeatureSet, FeatureSet], tmp_path: Path, changes: dict[str, Any]
) -> None:
    config = CONFIG.model_copy(update=changes)
    tasks = pretext_tasks(config)

    def check(rank: int, folder: Path) -> None:
        batch = make_batches(sets, config)(4)
        capture = make_capture(sets[0], config)
        replica = DistributedDataParallel(Objective(capture, tasks), find_unused_parameters=True)
        terms = replica(batch)
        torch.autograd.backward(torch.stack(list(terms.values())).sum())
        torch.save((batch, gradients(capture)), folder / f"{rank}.pt")

    on_ranks(tmp_path, check)
    saved = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2)]
    parts = [part for part, _ in saved]
    assert {len(part.item_ids) for part in parts} != {0}
    capture = make_capture(sets[0], config)
    terms = pretext_losses(capture, whole(parts), tasks)
    torch.autograd.backward(torch.stack(list(terms.values())).sum())
    expected = gradients(capture)
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    for _, found in saved:
        assert set(found) >= set(expected)
        for name, gradient in expected.items():
            torch.testing.assert_close(
                found[name], gradient, rtol=0, atol=TOLERANCE * largest, msg=name
            )


def whole(parts: list[PretrainingBatch]) -> PretrainingBatch:
    """The parts of two ranks as one batch: the epoch's items, other items, views."""
    bounds = [(part.num_items, len(part.item_ids), len(part.pairs)) for part in parts]
    ranges = [
        [range(start, end) for start, end in zip((0, *bound[:2]), bound, strict=True)]
        for bound in bounds
    ]
    order = [(part, row) for kind in range(3) for part in range(2) for row in ranges[part][kind]]

    def rows(tensors: list[Tensor], fill: float = 0) -> Tensor:
        width = max(tensor.shape[1] for tensor in tensors)
        padded = [
            functional.pad(
                tensor, (*(0, 0) * (tensor.ndim - 2), 0, width - tensor.shape[1]), value=fill
            )
            for tensor in tensors
        ]
        return torch.stack([padded[part][row] for part, row in order])

    def joined(name: str, kind: str) -> Tensor:
        tensors = [getattr(getattr(part, kind), name) for part in parts]
        return rows(tensors, fill=name.endswith("padding"))

    items = [(part, row) for part, row in order if row < bounds[part][1]]
    return PretrainingBatch(
        Pairs(*(joined(name, "pairs") for name in Pairs.__dataclass_fields__)),
        Masking(*(joined(name, "masking") for name in Masking.__dataclass_fields__)),
        torch.stack([parts[part].groups[row] for part, row in items]),
        torch.tensor(
            [items.index((rank, int(row))) for rank in range(2) for row in parts[rank].sources],
            dtype=torch.int64,
        ),
        sum(part.num_items for part in parts),
        [parts[part].item_ids[row] for part, row in items],
    )


def test_ranks_hold_the_items_and_instances_of_one_process(
    sets: tuple[FeatureSet, FeatureSet], tmp_path: Path
) -> None:
    batches = make_batches(sets, CONFIG)
    alone = batches(4)

    def check(rank: int, folder: Path) -> None:
        torch.save(batches(4), folder / f"{rank}.pt")

    on_ranks(tmp_path, check, num_ranks=3)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(3)]
    epoch = [item for part in parts for item in part.item_ids[: part.num_items]]
    assert epoch == alone.item_ids[: alone.num_items]
    others = [item for part in parts for item in part.item_ids[part.num_items :]]
    assert others == alone.item_ids[alone.num_items :]
    sources = [part.item_ids[row] for part in parts for row in part.sources]
    assert sorted(sources) == sorted(alone.item_ids[row] for row in alone.sources)
    assert [len(part.pairs) for part in parts] == [
        len(part.item_ids) + len(part.sources) for part in parts
    ]
