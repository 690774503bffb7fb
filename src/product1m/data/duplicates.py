"""Items with the same photo or the same caption: groups, and splits that keep them together."""

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int64, UInt64

Keys = UInt64[np.ndarray, " N"]


def key_of(text: str) -> int:
    """64 bits of a text's BLAKE2; of a million texts, any two are equal once in 40 million."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def duplicate_groups(photos: Keys, captions: Keys) -> Int64[np.ndarray, " N"]:
    """One number for all items linked by equal photos or captions, directly or through others.

    Groups are numbered by their first item.
    """
    keys = [np.unique(column, return_inverse=True)[1] for column in (photos, captions)]
    smallest = np.arange(len(photos))  # position of the first item known to be linked
    before = np.empty(0, np.int64)
    while not np.array_equal(smallest, before):
        before = smallest
        for key in keys:
            smallest_of_key = np.full(len(photos), len(photos))
            np.minimum.at(smallest_of_key, key, smallest)
            smallest = smallest_of_key[key]
        smallest = smallest[smallest]  # follows long chains of links in doubling steps
    return np.asarray(np.unique(smallest, return_inverse=True)[1], dtype=np.int64)


def numbers_by_list(
    groups: Int64[np.ndarray, " N"], sizes: Sequence[int]
) -> Int64[np.ndarray, " N"]:
    """Numbers of groups that a change in one list leaves alone in the others (ours).

    Args:
        groups: of the items of several lists, one after the other, numbered by their first item.
        sizes: number of items of each list.

    Returns:
        For groups that begin in the first list the number as it was; for those that begin in list
        `n`, from 1 on, `n << 40` and the place in that list. So another number of groups in an
        earlier list moves none of them.
    """
    first = np.unique(groups, return_index=True)[1]
    ends = np.cumsum(sizes)
    begins_in = np.searchsorted(ends, first, side="right")
    places = first - (ends - sizes)[begins_in]
    own = np.where(begins_in == 0, np.arange(len(first)), (begins_in << 40) + places)
    return np.asarray(own[groups], dtype=np.int64)


def shared(keys: Keys, others: Keys) -> Bool[np.ndarray, " N"]:
    """True where a key also occurs among the others."""
    return np.asarray(np.isin(keys, others))


def assign_splits(
    splits: Sequence[str],
    groups: Int64[np.ndarray, " N"],
    ids: Sequence[str],
    dev_share: float,
    seed: int,
) -> list[str]:
    """Give every query without a split one, `dev` or `test`; a group's queries stay together.

    If a query of a group has a split, the whole group gets it. The other groups become dev until
    `dev_share` of all queries are dev, in an order that depends only on the seed and each group's
    smallest id.
    """
    members: dict[int, list[int]] = {}
    for position, group in enumerate(groups):
        members.setdefault(int(group), []).append(position)
    drawn = sorted(
        members.values(), key=lambda group: key_of(f"{seed} {min(ids[i] for i in group)}")
    )
    assigned = list(splits)
    missing_dev = round(dev_share * len(assigned)) - sum(split == "dev" for split in splits)
    for group in drawn:
        open_positions = [i for i in group if not splits[i]]
        known = next((splits[i] for i in group if splits[i]), "")
        split = known or ("dev" if 0 < len(open_positions) <= missing_dev else "test")
        for position in open_positions:
            assigned[position] = split
        missing_dev -= len(open_positions) if split == "dev" else 0
    return assigned
