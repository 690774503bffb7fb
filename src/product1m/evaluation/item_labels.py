"""The label of each gallery item, by id, as a table: a quarter of what a dictionary takes."""

from collections.abc import ItemsView, Iterable, Iterator, Mapping, ValuesView

import numpy as np

from product1m.data.texts import Places, Texts


class ItemLabels(Mapping[str, str]):
    """Maps ids, all different, to labels, of which there are few."""

    def __init__(self, ids: Iterable[str], labels: Iterable[str]) -> None:
        self._ids = Texts(ids)
        self.places = Places(self._ids)
        known: dict[str, int] = {}
        numbers = (known.setdefault(label, len(known)) for label in labels)
        self.codes = np.fromiter(numbers, np.int32, len(self._ids))
        """A number of each item's label, in the order of the items."""
        self.names = list(known)
        """The label with each number, in the order of their first items."""

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __getitem__(self, item: str) -> str:
        return self.names[int(self.codes[self.places[item]])]

    def values(self) -> ValuesView[str]:
        """The labels in the order of the items."""
        return _Labels(self)

    def items(self) -> ItemsView[str, str]:
        """Ids with labels."""
        return _Pairs(self)


class _Labels(ValuesView[str]):
    def __init__(self, labels: ItemLabels) -> None:
        super().__init__(labels)
        self._labels = labels

    def __iter__(self) -> Iterator[str]:
        return map(self._labels.names.__getitem__, self._labels.codes)


class _Pairs(ItemsView[str, str]):
    def __init__(self, labels: ItemLabels) -> None:
        super().__init__(labels)
        self._labels = labels

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return zip(self._labels, self._labels.values(), strict=True)
