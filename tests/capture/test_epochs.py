"""In which order, and how often, a training shows its rows."""

from collections import Counter

import pytest

from product1m.capture.batches import EpochSampler
from product1m.errors import TrainingError


def test_an_epoch_shows_every_item_once_and_the_next_in_another_order() -> None:
    sampler = EpochSampler(num_rows=24, batch_size=8, seed=0)
    epochs = [[sampler.rows(epoch * 3 + i).tolist() for i in range(3)] for epoch in range(2)]
    for batches in epochs:
        assert sorted(row for rows in batches for row in rows) == list(range(24))
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize(("num_rows", "batch_size"), [(25, 8), (127, 64), (9, 8), (65, 64)])
def test_no_row_is_left_out_of_an_epoch_that_does_not_divide(
    num_rows: int, batch_size: int
) -> None:
    sampler = EpochSampler(num_rows, batch_size, seed=0)
    batches = [sampler.rows(index).tolist() for index in range(3 * sampler.batches_per_epoch)]
    assert Counter(row for rows in batches for row in rows) == dict.fromkeys(range(num_rows), 3)
    sizes = {len(rows) for rows in batches}
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


def test_a_set_smaller_than_a_batch_is_one_batch() -> None:
    sampler = EpochSampler(num_rows=5, batch_size=8, seed=0)
    assert sampler.batches_per_epoch == 1
    assert sorted(sampler.rows(7)) == list(range(5))


def test_nothing_to_train_on_is_said() -> None:
    with pytest.raises(TrainingError, match="0 rows in batches of 8"):
        EpochSampler(num_rows=0, batch_size=8, seed=0)
