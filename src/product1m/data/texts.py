"""Many texts in Arrow's buffers, and where each of them stands: a third of what Python takes."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int, Int64

CHUNK = 8192
"""Texts that become Python strings at once (ours)."""


class Texts(Sequence[str]):
    """A sequence of texts."""

    def __init__(self, texts: Iterable[str]) -> None:
        column = pa.array(texts, pa.string())
        self._column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> list[str]: ...

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return self._column[place].to_pylist()
        return self._column[int(place)].as_py()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), CHUNK):
            yield from self[start : start + CHUNK]

    def at(self, places: Int[np.ndarray, " n"] | Sequence[int]) -> list[str]:
        """The texts at some places."""
        texts: list[str] = self._column.take(pa.array(places, pa.int64())).to_pylist()
        return texts

    def equal(
        self, places: Int[np.ndarray, " n"], others: "Texts", their_places: Int[np.ndarray, " n"]
    ) -> Bool[np.ndarray, " n"]:
        """Whether the texts at some places equal others at theirs."""
        ours, theirs = self._column.take(places), others._column.take(their_places)
        return np.asarray(pc.equal(ours, theirs), bool)


class Places:
    """Finds the places of texts that are all different: 12 bytes a text beside the texts."""

    def __init__(self, texts: Texts) -> None:
        hashes = np.fromiter(map(hash, texts), np.int64, len(texts))
        self._texts = texts
        self._order = np.argsort(hashes, kind="stable").astype(np.int32)
        hashes.sort()
        self._hashes = hashes

    def __getitem__(self, text: str) -> int:
        place = int(self.find([text])[0])
        if place < 0:
            raise KeyError(text)
        return place

    def find(self, texts: Iterable[str]) -> Int64[np.ndarray, " n"]:
        """The place of each text; -1 if it is unknown."""
        asked = list(texts)
        wanted = Texts(asked)
        places = np.full(len(asked), -1, np.int64)
        hashes = np.fromiter(map(hash, asked), np.int64, len(asked))
        following = np.searchsorted(self._hashes, hashes)
        open_rows = np.arange(len(asked))
        while True:  # again only where different texts have equal hashes
            at = following[open_rows]
            at, open_rows = at[at < len(self._hashes)], open_rows[at < len(self._hashes)]
            same = self._hashes[at] == hashes[open_rows]
            at, open_rows = at[same], open_rows[same]
            if not len(open_rows):
                return places
            candidates = self._order[at]
            equal = self._texts.equal(candidates, wanted, open_rows)
            places[open_rows[equal]] = candidates[equal]
            open_rows = open_rows[~equal]
            following[open_rows] += 1
