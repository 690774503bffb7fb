"""Checkpoints that the disk damaged: noticed, and the one before is used."""

from pathlib import Path

import pytest

from product1m.training.checkpoint import checkpoints
from product1m.training.loop import train
from tests.support.worlds.tiny_training import PLAN, Batch, batch_at, losses, make_network, silent

FILES = ("model.safetensors", "optimizer.pt", "state.json", "digests.json")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def steps_from(work: Path) -> tuple[int, list[dict[str, float]]]:
    """The step that a training continues from, and its curve at the end."""
    asked: list[int] = []

    def noted(index: int) -> Batch:
        asked.append(index)
        return batch_at(index)

    curve = train(make_network(), losses, noted, PLAN, work=work, report=silent)
    return min(asked, default=PLAN.num_steps), curve


@pytest.fixture
def work(tmp_path: Path) -> Path:
    train(make_network(), losses, batch_at, PLAN, work=tmp_path / "work", report=silent)
    return tmp_path / "work"


def test_the_newest_two_checkpoints_are_kept(work: Path) -> None:
    names = [path.name for path in checkpoints(work)]
    assert names == ["checkpoint-00000008", "checkpoint-00000012"]
    assert sorted(path.name for path in work.iterdir()) == names, "nothing hidden is left"


@pytest.mark.parametrize("damage", [flip_a_bit, cut_short, Path.unlink])
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    file: str, damage: object, work: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, expected = steps_from(work)
    assert callable(damage)
    damage(work / "checkpoint-00000012" / file)
    start, curve = steps_from(work)
    assert start == 8
    assert curve == expected
    if (file, damage) != ("digests.json", Path.unlink):  # then it was never finished
        assert "checkpoint-00000012: damaged, not used" in caplog.text
    assert steps_from(work)[0] == 12, "the damaged one was replaced"


def test_a_training_without_a_usable_checkpoint_starts_over(
    work: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, expected = steps_from(work)
    for folder in checkpoints(work):
        flip_a_bit(folder / "model.safetensors")
    start, curve = steps_from(work)
    assert start == 0
    assert curve == expected
    assert "no checkpoint can be used; training starts over" in caplog.text
