"""Which files of a catalogue's points are kept when its items change."""

import random
from collections.abc import Sequence

import pytest

from product1m.catalogue.points import LEAST_ROWS, NEW, SHARD_ROWS, plan_shards


def shards_of(sizes: Sequence[int]) -> dict[int, tuple[str, int]]:
    """Shards of these sizes by their first row."""
    firsts = [sum(sizes[:number]) for number in range(len(sizes))]
    return {first: (f"old-{first}", size) for first, size in zip(firsts, sizes, strict=True)}


@pytest.mark.parametrize("seed", range(5))
def test_years_of_changes_keep_every_row_in_its_place_and_leave_no_small_files(seed: int) -> None:
    generator = random.Random(seed)
    items, sizes, next_item = list(range(1000)), [1000], 1000
    for _ in range(40):
        old = {item: place for place, item in enumerate(items)}
        gone = set(generator.sample(items, generator.randrange(30)))
        items = [item for item in items if item not in gone]
        items += range(next_item, next_item := next_item + generator.randrange(60))
        shards = shards_of(sizes)
        lengths = dict(shards.values())
        made, sizes = [], []
        for piece in plan_shards([old.get(item, NEW) for item in items], shards):
            if isinstance(piece, str):
                first = int(piece.removeprefix("old-"))
                made += list(old)[first : first + lengths[piece]]
                sizes.append(lengths[piece])
            else:
                made += [items[row] for row in piece]
                sizes.append(len(piece))
        assert made == items
        assert all(size >= LEAST_ROWS for size in sizes[:-1])
        assert all(size <= SHARD_ROWS for size in sizes)


def test_a_change_writes_one_shard_and_new_items_another() -> None:
    places = [row for row in range(5 * SHARD_ROWS) if row != 300] + [NEW] * 75
    plan = list(plan_shards(places, shards_of([SHARD_ROWS] * 5)))
    kept = [piece for piece in plan if isinstance(piece, str)]
    assert kept == ["old-0", "old-128", "old-384", "old-512"]
    written = [len(piece) for piece in plan if isinstance(piece, range)]
    assert written == [SHARD_ROWS - 1, 75]


def test_nothing_is_written_if_nothing_changed() -> None:
    shards = shards_of([SHARD_ROWS, 3])
    assert list(plan_shards(range(SHARD_ROWS + 3), shards)) == ["old-0", "old-128"]
