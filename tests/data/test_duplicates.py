"""Duplicate groups, and splits that keep them together."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from product1m.data.duplicates import assign_splits, duplicate_groups, numbers_by_list


def groups_by_hand(photos: list[int], captions: list[int]) -> list[int]:
    """Spread the smallest position over everything linked, until nothing changes."""
    group = list(range(len(photos)))
    changed = True
    while changed:
        changed = False
        for i in range(len(photos)):
            for j in range(len(photos)):
                linked = photos[i] == photos[j] or captions[i] == captions[j]
                if linked and group[j] < group[i]:
                    group[i], changed = group[j], True
    first = sorted(set(group))
    return [first.index(number) for number in group]


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_groups_are_what_equal_photos_and_captions_link(items: list[tuple[int, int]]) -> None:
    photos, captions = ([pair[side] for pair in items] for side in (0, 1))
    found = duplicate_groups(np.array(photos, np.uint64), np.array(captions, np.uint64))
    assert found.tolist() == groups_by_hand(photos, captions)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["", "", "dev", "test"])), max_size=30),
    st.floats(0, 1),
)
def test_queries_without_a_split_follow_their_group(
    queries: list[tuple[int, str]], dev_share: float
) -> None:
    groups = np.array([group for group, _ in queries], np.int64)
    given_splits = [split for _, split in queries]
    ids = [str(number) for number in range(len(queries))]
    assigned = assign_splits(given_splits, groups, ids, dev_share, seed=0)
    assert all(split in ("dev", "test") for split in assigned)
    for before, after in zip(given_splits, assigned, strict=True):
        assert before in ("", after)
    for group in set(groups):
        members = [i for i in range(len(queries)) if groups[i] == group]
        if not any(given_splits[i] for i in members):
            assert len({assigned[i] for i in members}) == 1


def test_the_dev_share_is_met_and_does_not_depend_on_the_order_of_the_list() -> None:
    ids = [f"q{number}" for number in range(100)]
    groups = np.arange(100)
    assigned = assign_splits([""] * 100, groups, ids, 0.3, seed=0)
    assert assigned.count("dev") == 30
    backwards = assign_splits([""] * 100, groups, ids[::-1], 0.3, seed=0)
    assert backwards == assigned[::-1]
    assert assign_splits([""] * 100, groups, ids, 0.3, seed=1) != assigned


def test_groups_are_numbered_by_the_list_in_which_they_begin() -> None:
    lists = [0, 1, 0], [2, 1, 3], [4, 3, 4]
    numbers = numbers_by_list(np.array([*lists[0], *lists[1], *lists[2]]), [3, 3, 3])
    in_second, in_third = 1 << 40, 2 << 40
    expected = [0, 1, 0, in_second, 1, in_second + 2, in_third, in_second + 2, in_third]
    assert numbers.tolist() == expected
