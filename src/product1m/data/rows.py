"""The rows of a role's lists, each id once."""

from array import array
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np

from product1m.data.duplicates import key_of
from product1m.data.lists import ListFile, ListItem, RejectedLine, read_list

Row = ListItem | RejectedLine


def distinct_rows(lists: Sequence[ListFile]) -> Iterator[Row]:
    """Every row in the lists' order; an id that occurred before is rejected.

    The lists are read twice, and memory holds eight bytes a row.
    """
    suspects = _repeated_keys(lists)
    first_places: dict[str, str] = {}
    for row in _rows(lists):
        if isinstance(row, ListItem) and key_of(row.id) in suspects:
            place = f"{row.list_name}:{row.line}"
            first = first_places.setdefault(row.id, place)
            if first != place:
                yield row.rejected(f"duplicate id, first at {first}")
                continue
        yield row


def _repeated_keys(lists: Sequence[ListFile]) -> set[int]:
    """The keys of ids that occur twice; among a million ids, hardly any other id has such a key."""
    keys = array("Q", (key_of(row.id) for row in _rows(lists) if isinstance(row, ListItem)))
    ordered = np.sort(np.frombuffer(keys, np.uint64))
    repeated: list[int] = ordered[1:][ordered[1:] == ordered[:-1]].tolist()
    return set(repeated)


def _rows(lists: Sequence[ListFile]) -> Iterator[Row]:
    return chain.from_iterable(map(read_list, lists))
