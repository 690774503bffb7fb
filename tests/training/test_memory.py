"""Memory that runs out in a training step: the batch is split, and the result stays the same."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from product1m.errors import TrainingError
from product1m.training.loop import train
from product1m.training.memory import in_parts, parts_of
from tests.support.worlds.tiny_training import PLAN, Batch, batch_at, silent

CPU_MESSAGE = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 B"


class LimitedLinear(nn.Linear):
    """A layer whose activations are too large for more than `max_rows` rows."""

    max_rows = 8
    error: Callable[[], Exception] = torch.OutOfMemoryError

    def forward(self, rows: Tensor) -> Tensor:
        if len(rows) > self.max_rows:
            raise self.error()
        return super().forward(rows)


def limited(max_rows: int, error: Callable[[], Exception] = torch.OutOfMemoryError) -> nn.Module:
    torch.manual_seed(0)
    first, last = LimitedLinear(4, 8), nn.Linear(8, 1)
    first.max_rows, first.error = max_rows, error
    return nn.Sequential(first, nn.Tanh(), last)


def losses(module: nn.Module, batch: Batch, num_parts: int = 1) -> dict[str, Tensor]:
    """Every row against the whole batch's mean, so that a part alone would not do."""
    parts = in_parts(lambda rows: module(batch["rows"][rows]), len(batch["rows"]), num_parts)
    predicted = torch.cat(list(parts))
    distance = (predicted - batch["sums"] - 0.5 * predicted.mean()) ** 2
    return {"squared": distance.mean()}


def trained(network: nn.Module, work: Path, max_parts: int = 8) -> tuple[nn.Module, list[float]]:
    curve = train(network, losses, batch_at, PLAN, work=work, report=silent, max_parts=max_parts)
    return network, [point["total"] for point in curve]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError, MemoryError, lambda: RuntimeError(CPU_MESSAGE)]
)
def test_a_training_that_runs_out_of_memory_ends_like_one_that_does_not(
    error: Callable[[], Exception], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, expected = trained(limited(8), tmp_path / "whole")
    split, curve = trained(limited(2, error), tmp_path / "split")
    assert curve == pytest.approx(expected, rel=1e-4)
    for mine, theirs in zip(split.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert "step 0: memory ran out; the batch is split into 4 parts from here on" in caplog.text


def test_the_next_attempt_starts_with_the_parts_that_fit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained(limited(2), tmp_path)
    caplog.clear()
    sizes: list[int] = []
    network = limited(2)
    network.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    for folder in tmp_path.glob("checkpoint-*"):
        folder.rename(tmp_path / f"gone-{folder.name}")
    trained(network, tmp_path)
    assert set(sizes) == {2}
    assert "memory ran out" not in caplog.text


@pytest.mark.parametrize(("max_parts", "parts"), [(8, 8), (4, 4), (1, 1)])
def test_memory_that_is_too_small_for_the_smallest_part_is_an_error_that_says_what_to_do(
    max_parts: int, parts: int, tmp_path: Path
) -> None:
    with pytest.raises(
        TrainingError, match=rf"step 0: memory ran out with a batch in {parts} parts.*batch_size"
    ):
        trained(limited(0), tmp_path, max_parts)


def test_other_errors_are_not_taken_for_a_lack_of_memory(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        trained(limited(2, lambda: RuntimeError("shapes do not match")), tmp_path)


@pytest.mark.parametrize(("rows", "parts"), [(8, 3), (3, 8), (1, 1), (5, 5), (7, 2)])
def test_parts_hold_every_row_once_and_none_is_empty(rows: int, parts: int) -> None:
    found = [list(range(rows))[part] for part in parts_of(rows, parts)]
    assert [row for part in found for row in part] == list(range(rows))
    assert len(found) == min(rows, parts)
    assert max(map(len, found)) - min(map(len, found)) <= 1
