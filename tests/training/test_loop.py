import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes

from product1m.errors import TrainingError
from product1m.training import distributed
from product1m.training.checkpoint import checkpoints
from product1m.training.loop import TrainingPlan, train
from product1m.training.optimizer import (
    MIN_FUSED,
    ParameterGroup,
    make_optimizer,
    warmup_and_decay,
)
from tests.support.processes import hold_when, kill_when
from tests.support.worlds.tiny_training import PLAN, Batch, batch_at, losses, make_network, silent


class _StopError(Exception):
    pass


def test_a_training_that_was_stopped_ends_like_one_that_was_not(tmp_path: Path) -> None:
    whole = make_network()
    expected = train(whole, losses, batch_at, PLAN, work=tmp_path / "whole", report=silent)

    def stops(index: int) -> Batch:
        if index == 7:
            raise _StopError
        return batch_at(index)

    work, network = tmp_path / "stopped", make_network()
    with pytest.raises(_StopError):
        train(network, losses, stops, PLAN, work=work, report=silent)
    assert [path.name for path in checkpoints(work)] == ["checkpoint-00000004"]
    resumed = make_network()
    asked: list[int] = []

    def noted(index: int) -> Batch:
        asked.append(index)
        return batch_at(index)

    curve = train(resumed, losses, noted, PLAN, work=work, report=silent)
    assert asked == list(range(4, 12))
    assert curve == expected
    for mine, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_killed_process_leaves_a_checkpoint_to_go_on_from(tmp_path: Path) -> None:
    expected = train(make_network(), losses, batch_at, PLAN, work=tmp_path / "whole", report=silent)
    work = tmp_path / "killed"

    def held(index: int) -> Batch:
        hold_when(lambda: checkpoints(work))
        return batch_at(index)

    kill_when(
        lambda: checkpoints(work),
        lambda: train(make_network(), losses, held, PLAN, work=work, report=silent),
    )
    reported: list[int] = []
    curve = train(
        make_network(),
        losses,
        batch_at,
        PLAN,
        work=work,
        report=lambda step, terms: reported.append(step),
    )
    assert curve == expected
    assert 3 not in reported, "a point that was reported is not reported again"


def test_a_report_is_the_mean_since_the_last_one_and_the_total_is_the_sum(tmp_path: Path) -> None:
    each: list[dict[str, float]] = []

    def noted(module: nn.Module, batch: Batch) -> dict[str, Tensor]:
        terms = losses(module, batch)
        each.append({name: term.item() for name, term in terms.items()})
        return terms

    reported: list[tuple[int, dict[str, float]]] = []
    train(
        make_network(),
        noted,
        batch_at,
        PLAN,
        work=tmp_path,
        report=lambda step, terms: reported.append((step, terms)),
    )
    assert [step for step, _ in reported] == [3, 6, 9, 12]
    for place, (_, terms) in enumerate(reported):
        window = each[place * 3 : place * 3 + 3]
        squared = sum(row["squared"] for row in window) / 3
        absolute = sum(row["absolute"] for row in window) / 3
        assert terms["squared"] == pytest.approx(squared)
        assert terms["total"] == pytest.approx(squared + absolute)


def test_two_accumulated_batches_count_like_one_of_both(tmp_path: Path) -> None:
    def joined(index: int) -> Batch:
        halves = [batch_at(2 * index), batch_at(2 * index + 1)]
        return {name: torch.cat([half[name] for half in halves]) for name in halves[0]}

    networks = []
    for name, batches, accumulation_steps in (("two", batch_at, 2), ("one", joined, 1)):
        network = make_network()
        network[1] = nn.Identity()  # type: ignore[operator]
        plan = TrainingPlan(num_steps=5, learning_rate=0.01, accumulation_steps=accumulation_steps)
        train(network, losses, batches, plan, work=tmp_path / name, report=silent)
        networks.append(network)
    for mine, theirs in zip(*(network.parameters() for network in networks), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_last_good_checkpoint(
    tmp_path: Path,
) -> None:
    class Named(dict[str, Tensor]):
        item_ids = ("item-5", "item-9")

        def to(self, device: torch.device) -> "Named":
            return self

    def poisoned(index: int) -> Batch:
        batch = Named(batch_at(index))
        if index == 6:
            batch["sums"] = batch["sums"] / 0 * 0
        return batch

    network = make_network()
    message = r"step 6: .*squared.*nan.*item-5.*item-9.*last good checkpoint .*00000004.*float32"
    with pytest.raises(TrainingError, match=message):
        train(network, losses, poisoned, PLAN, work=tmp_path, report=silent)
    assert all(torch.isfinite(parameter).all() for parameter in network.parameters())
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-00000004"]


def test_half_a_checkpoint_is_not_taken_for_one(tmp_path: Path) -> None:
    (tmp_path / ".checkpoint-00000008.partial").mkdir()
    (tmp_path / "checkpoint-00000008").mkdir()
    curve = train(make_network(), losses, batch_at, PLAN, work=tmp_path, report=silent)
    assert len(curve) == 4


def test_a_checkpoint_of_another_plan_or_network_is_refused(tmp_path: Path) -> None:
    train(make_network(), losses, batch_at, PLAN, work=tmp_path, report=silent)
    other = TrainingPlan(num_steps=99, learning_rate=0.05)
    with pytest.raises(TrainingError, match=r"made under the plan .*to start over"):
        train(make_network(), losses, batch_at, other, work=tmp_path, report=silent)
    with pytest.raises(TrainingError, match=r"(?s)does not fit this model .*to start over"):
        train(nn.Linear(4, 1), losses, batch_at, PLAN, work=tmp_path, report=silent)


def test_bf16_computes_in_bf16_and_keeps_float32_weights(tmp_path: Path) -> None:
    kinds = set()

    def noted(module: nn.Module, batch: Batch) -> dict[str, Tensor]:
        kinds.add(module(batch["rows"]).dtype)
        return losses(module, batch)

    network = make_network()
    plan = TrainingPlan(num_steps=30, learning_rate=0.05, precision="bf16")
    curve = train(network, noted, batch_at, plan, work=tmp_path, report=silent)
    assert kinds == {torch.bfloat16}
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert curve[-1]["total"] < curve[0]["total"]


def test_training_leaves_the_callers_random_state_alone(tmp_path: Path) -> None:
    network = make_network()
    before = torch.random.get_rng_state()
    train(network, losses, batch_at, PLAN, work=tmp_path, report=silent)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_rate_rises_and_falls_as_worked_out_by_hand() -> None:
    factors = [warmup_and_decay(step, 10, 0.2) for step in range(11)]
    expected = [0.5, 1.0, 1.0, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0.0]
    assert factors == pytest.approx(expected)


def test_the_reported_rate_follows_the_schedule(tmp_path: Path) -> None:
    plan = TrainingPlan(num_steps=10, learning_rate=0.01, warmup_share=0.2, report_interval_steps=1)
    curve = train(make_network(), losses, batch_at, plan, work=tmp_path, report=silent)
    rates = [row["learning_rate"] for row in curve]
    assert rates == pytest.approx([0.01 * warmup_and_decay(step, 10, 0.2) for step in range(10)])


def test_only_matrices_decay_and_only_the_named_group_has_another_rate() -> None:
    slow, fast = nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    groups = [
        ParameterGroup(list(slow.parameters()), 0.1),
        ParameterGroup(list(fast.parameters())),
    ]
    optimizer = make_optimizer(groups, learning_rate=1e-3, weight_decay=0.1)
    before = {p: p.detach().clone() for group in groups for p in group.parameters}
    for parameter in before:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for group, rate in zip(groups, (1e-4, 1e-3), strict=True):
        for parameter in group.parameters:
            kept = 1 - rate * 0.1 if parameter.ndim == 2 else 1.0
            torch.testing.assert_close(parameter.detach(), before[parameter] * kept)


def test_a_frozen_parameter_stays(tmp_path: Path) -> None:
    network = make_network()
    frozen = next(network.parameters())
    frozen.requires_grad_(False)
    before = frozen.clone()
    train(network, losses, batch_at, PLAN, work=tmp_path, report=silent)
    assert torch.equal(frozen, before)


def test_two_ranks_train_as_one_process_with_the_whole_batch(tmp_path: Path) -> None:
    start_processes(_one_rank, (tmp_path,), nprocs=2, start_method="fork")  # type: ignore[no-untyped-call]
    network = _plain_network()
    train(network, losses, batch_at, PLAN, work=tmp_path / "one", report=silent)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, weight in network.state_dict().items():
            torch.testing.assert_close(found[name], weight)
    assert json.loads((tmp_path / "reports.json").read_text()) == [3, 6, 9, 12]


def _plain_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 1)


def _one_rank(rank: int, folder: Path) -> None:
    store = f"file://{folder}/store"
    torch.distributed.init_process_group("gloo", store, rank=rank, world_size=2)
    reports: list[int] = []

    def half(index: int) -> Batch:
        mine = slice(distributed.rank() * 4, distributed.rank() * 4 + 4)
        return {name: rows[mine] for name, rows in batch_at(index).items()}

    network = _plain_network()
    train(
        network,
        losses,
        half,
        PLAN,
        work=folder / "two",
        report=lambda step, terms: reports.append(step),
    )
    torch.save(network.state_dict(), folder / f"{rank}.pt")
    if rank == 0:
        (folder / "reports.json").write_text(json.dumps(reports))
    torch.distributed.destroy_process_group()


def test_a_large_network_is_updated_like_a_small_one() -> None:
    large, first = nn.Parameter(torch.ones(MIN_FUSED // 100, 100)), torch.randn(100)
    small = nn.Parameter(torch.ones(1, 100))
    optimizers = [
        make_optimizer([ParameterGroup([parameter])], 0.1, 0.01) for parameter in (large, small)
    ]
    for step in range(3):
        for parameter, optimizer in zip((large, small), optimizers, strict=True):
            parameter.grad = (first * (step + 1)).expand_as(parameter).clone()
            optimizer.step()
    assert [optimizer.defaults["fused"] for optimizer in optimizers] == [True, None]
    torch.testing.assert_close(large, small.expand_as(large), rtol=1e-4, atol=1e-5)
