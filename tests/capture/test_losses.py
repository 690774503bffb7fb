import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import start_processes

from product1m.capture.losses import (
    contrastive_loss,
    masked_language_loss,
    masked_region_loss,
    matching_loss,
    released_contrastive_loss,
)
from tests.support.oracles import loops as oracles

ALONE = torch.arange(6)
"""Every row a group of its own."""
LOSSES = (contrastive_loss, released_contrastive_loss)
TWINS = torch.tensor([0, 1, 0, 2, 3, 3])


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _two(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(6, 8, generator=generator), torch.randn(6, 8, generator=generator)


@pytest.mark.parametrize("groups", [ALONE, TWINS])
def test_contrastive_loss_equals_its_definition(generator: torch.Generator, groups: Tensor) -> None:
    left, right = _two(generator)
    expected = oracles.contrastive_loss(left, right, groups.tolist(), 0.3)
    assert contrastive_loss(left, right, groups, 0.3).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("groups", [ALONE, TWINS])
def test_the_released_contrast_equals_its_definition(
    generator: torch.Generator, groups: Tensor
) -> None:
    text, image = _two(generator)
    expected = oracles.released_contrastive_loss(text, image, groups.tolist(), 0.07)
    found = released_contrastive_loss(text, image, groups, 0.07)
    assert found.item() == pytest.approx(expected, abs=1e-4)


def test_two_perfect_pairs_give_the_loss_worked_out_by_hand() -> None:
    pairs = torch.eye(2)  # cosines: 1 with the partner, 0 with everything else
    across = math.log(math.e**2 + 1) - 2  # temperature 0.5
    all_others = math.log(math.e**2 + 2) - 2
    assert contrastive_loss(pairs, pairs, torch.arange(2), 0.5).item() == pytest.approx(across)
    released = released_contrastive_loss(pairs, pairs, torch.arange(2), 0.5)
    assert released.item() == pytest.approx(all_others)


def test_a_duplicate_is_neither_positive_nor_negative() -> None:
    left = torch.eye(3)[[0, 0, 1]]
    loss = contrastive_loss(left, left, torch.tensor([5, 5, 6]), 0.5)
    assert loss.item() == pytest.approx(
        (math.log(math.e**2 + 1) * 2 + math.log(math.e**2 + 2)) / 3 - 2
    )


def test_no_gradient_reaches_a_masked_duplicate() -> None:
    left, right = torch.eye(3)[[0, 0]].requires_grad_(), torch.eye(3)[[0, 1]].requires_grad_()
    torch.autograd.backward(contrastive_loss(left, right, torch.tensor([1, 1]), 0.5))
    assert left.grad is not None
    assert left.grad.abs().max() == 0


def test_masked_losses_equal_their_definitions(generator: torch.Generator) -> None:
    scores = torch.randn(5, 11, generator=generator)
    truth = torch.randint(0, 11, (5,), generator=generator)
    expected = oracles.masked_language_loss(scores, truth)
    assert masked_language_loss(scores, truth).item() == pytest.approx(expected, abs=1e-6)
    predicted, features = _two(generator)
    expected = oracles.masked_region_loss(predicted, features)
    assert masked_region_loss(predicted, features).item() == pytest.approx(expected, abs=1e-6)


def test_matching_loss_equals_its_definition(generator: torch.Generator) -> None:
    logits, matches = torch.randn(7, generator=generator), torch.arange(7) < 4
    expected = oracles.matching_loss(logits, matches)
    assert matching_loss(logits, matches).item() == pytest.approx(expected, abs=1e-6)


def test_a_batch_in_which_nothing_is_masked_costs_nothing() -> None:
    nothing = torch.zeros(0, 9, requires_grad=True)
    assert masked_language_loss(nothing, torch.zeros(0, dtype=torch.long)).item() == 0
    assert masked_region_loss(nothing, torch.zeros(0, 9)).item() == 0


def test_two_ranks_see_each_others_negatives_and_gradients(
    tmp_path: Path, generator: torch.Generator
) -> None:
    start_processes(_one_rank, (tmp_path,), nprocs=2, start_method="fork")  # type: ignore[no-untyped-call]
    for function in LOSSES:
        left, right = (rows.clone().requires_grad_() for rows in _two(generator.manual_seed(0)))
        loss = function(left, right, TWINS, 0.3)
        torch.autograd.backward(loss)
        name = function.__name__
        ranks = [torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1)]
        assert sum(rank["loss"] for rank in ranks) / 2 == pytest.approx(loss.item(), abs=1e-6)
        for side, whole in (("left", left), ("right", right)):
            parts = torch.cat([rank[side] for rank in ranks]) / 2  # the loss is the ranks' mean
            torch.testing.assert_close(parts, whole.grad)


def _one_rank(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    mine = slice(rank * 3, rank * 3 + 3)
    for function in LOSSES:
        pair = _two(torch.Generator().manual_seed(0))
        left, right = (rows[mine].clone().requires_grad_() for rows in pair)
        loss = function(left, right, TWINS[mine], 0.3)
        torch.autograd.backward(loss)
        found = {"loss": loss.item(), "left": left.grad, "right": right.grad}
        torch.save(found, folder / f"{function.__name__}-{rank}.pt")
    dist.destroy_process_group()
