"""mAP, mAR and precision of rankings, in two definitions that must never be mixed.

`official` equals the released evaluator to the last digit: AP is divided by the number of hits,
every ranking is cut at the number of relevant items, and rankings on which the released script
fails score 0 (released code). `strict` divides AP by min(relevant items, N) and cuts at N; a label
that is not in the gallery is ignored, and a repeated item counts once (ours, after the other
definition in use). `docs/reproduction.md` explains the differences.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, repeat
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from product1m.errors import RetrievalError
from product1m.evaluation.item_labels import ItemLabels
from product1m.evaluation.statistics import METRIC_NAMES

logger = logging.getLogger(__name__)

Definition = Literal["official", "strict"]
DEFINITIONS: tuple[Definition, ...] = ("official", "strict")
DEPTHS = (10, 50, 100)
"""Ranking depths N of the tables (paper)."""
Rankings = Mapping[str, Sequence[str]] | Sequence[tuple[str, Sequence[str]]]
"""Query id and gallery ids, best first; the sequence form may contain a query more than once."""

_UNKNOWN, _PADDING = -1, -2


@dataclass(frozen=True)
class GroundTruth:
    """Labels that decide what is relevant: a gallery item whose label is one of the query's."""

    query_labels: Mapping[str, tuple[str, ...]]
    """Labels of each query, one entry per occurrence of the product in the photo."""
    gallery_label: Mapping[str, str]
    """The one label of each gallery item."""

    @classmethod
    def from_rows(cls, queries: pd.DataFrame, gallery: pd.DataFrame) -> "GroundTruth":
        """From the rows of item tables; every gallery item has a label."""
        asked = zip(queries["id"], queries["labels"], strict=True)
        return cls(
            {str(query): tuple(labels) for query, labels in asked},
            ItemLabels(gallery["id"], (labels[0] for labels in gallery["labels"])),
        )

    @cached_property
    def missing_labels(self) -> dict[str, int]:
        """Query labels that no gallery item has, with the number of queries with each label."""
        known = set(self.gallery_label.values())
        asked = chain.from_iterable(set(labels) - known for labels in self.query_labels.values())
        missing = dict(Counter(asked).most_common())
        if missing:
            logger.warning(
                "%d query labels are missing from the gallery (%r in %d queries, …): `official` "
                "scores 0 for each query that asks for one, `strict` ignores the label and leaves "
                "out queries that have no other (%d)",
                len(missing),
                *next(iter(missing.items())),
                sum(not known.intersection(labels) for labels in self.query_labels.values()),
            )
        return missing

    @cached_property
    def _items(self) -> ItemLabels:
        labels = self.gallery_label
        if isinstance(labels, ItemLabels):
            return labels
        return ItemLabels(labels.keys(), labels.values())

    @cached_property
    def _label_codes(self) -> dict[str, int]:
        return {label: code for code, label in enumerate(self._items.names)}

    @cached_property
    def _item_codes(self) -> Int[np.ndarray, " G"]:
        # Two more entries, so that the positions -2 and -1 find padding and unknown.
        return np.append(self._items.codes, np.array([_PADDING, _UNKNOWN], np.int32))

    @cached_property
    def _label_sizes(self) -> Int[np.ndarray, " C"]:
        return np.bincount(self._item_codes[:-2], minlength=len(self._label_codes))


def score_queries(
    rankings: Rankings,
    truth: GroundTruth,
    definition: Definition,
    depths: Sequence[int] = DEPTHS,
) -> pd.DataFrame:
    """AP, AR and precision of every ranking: columns query_id, depth, ap, recall, precision.

    Rows are sorted by depth, then in the order of `rankings`. `strict` raises RetrievalError for a
    query that is not in `truth`, and leaves out queries without a label in the gallery. `official`
    scores both 0, as the released script does.
    """
    pairs = list(rankings.items() if isinstance(rankings, Mapping) else rankings)
    if not pairs or not depths or min(depths) < 1:
        raise RetrievalError(
            f"{len(pairs)} rankings at depths {tuple(depths)} cannot be scored; "
            "give at least one ranking and depths from 1 on"
        )
    if definition == "strict":
        pairs = _answerable(pairs, truth)
    query_ids = [query_id for query_id, _ in pairs]
    wanted = _Wanted.from_labels(
        [truth.query_labels.get(query_id, ()) for query_id in query_ids], truth
    )
    table = _RankTable.from_ids([ids for _, ids in pairs], wanted, truth, max(depths))
    score = _official if definition == "official" else _strict
    if definition == "strict":
        table = table.without_repeats()
    rows = [score(table, wanted, depth) for depth in depths]
    ap, recall, precision = (np.concatenate(columns) for columns in zip(*rows, strict=True))
    return pd.DataFrame(
        {
            "query_id": query_ids * len(depths),
            "depth": np.repeat(np.asarray(depths, np.int64), len(query_ids)),
            "ap": ap,
            "recall": recall,
            "precision": precision,
        }
    )


def mean_scores(scores: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Means over the queries by depth: {"10": {"mAP": …, "mAR": …, "Prec": …}, …}, fractions."""
    means = scores.groupby("depth")[list(METRIC_NAMES)].mean()
    return {
        str(depth): {name: float(row[column]) for column, name in METRIC_NAMES.items()}
        for depth, row in means.iterrows()
    }


@dataclass(frozen=True)
class _Wanted:
    """The distinct labels of each query, one per slot; unused slots have none."""

    codes: Int[np.ndarray, "Q S"]
    occurrences: Int[np.ndarray, "Q S"]
    sizes: Int[np.ndarray, "Q S"]
    """Number of gallery items with the label."""
    num_labels: Int[np.ndarray, " Q"]
    """Occurrences of labels that the gallery has."""
    num_distinct: Int[np.ndarray, " Q"]
    complete: Bool[np.ndarray, " Q"]
    """Whether the query is known and the gallery has all its labels."""

    @classmethod
    def from_labels(cls, labels: Sequence[Sequence[str]], truth: GroundTruth) -> "_Wanted":
        num_queries, num_codes = len(labels), max(1, len(truth._label_codes))
        num_asked = np.fromiter(map(len, labels), np.int64, num_queries)
        rows = np.repeat(np.arange(num_queries), num_asked)
        codes = _look_up(truth._label_codes, chain.from_iterable(labels))
        rows, codes = rows[codes >= 0], codes[codes >= 0]
        pairs, counts = np.unique(rows * num_codes + codes, return_counts=True)
        rows, codes = np.divmod(pairs, num_codes)
        num_distinct = np.bincount(rows, minlength=num_queries)
        slots = np.arange(len(rows)) - (np.cumsum(num_distinct) - num_distinct)[rows]
        shape = (num_queries, max(1, int(num_distinct.max(initial=0))))
        padded = {"codes": np.full(shape, _PADDING - 1)} | {
            name: np.zeros(shape, np.int64) for name in ("occurrences", "sizes")
        }
        padded["codes"][rows, slots] = codes
        padded["occurrences"][rows, slots] = counts
        padded["sizes"][rows, slots] = truth._label_sizes[codes]
        num_labels = padded["occurrences"].sum(axis=1)
        return cls(
            **padded,
            num_labels=num_labels,
            num_distinct=num_distinct,
            complete=(num_labels == num_asked) & (num_asked > 0),
        )


@dataclass(frozen=True)
class _RankTable:
    """Rankings as rows, padded to a common width of at most the largest depth."""

    items: Int[np.ndarray, "Q W"]
    """Position in the gallery, or unknown, or padding."""
    slots: Int[np.ndarray, "Q W"]
    """Slot of the query's label that the item has, or -1."""
    lengths: Int[np.ndarray, " Q"]
    """Length of each ranking before it is cut."""

    @classmethod
    def from_ids(
        cls, ids: Sequence[Sequence[str]], wanted: _Wanted, truth: GroundTruth, width: int
    ) -> "_RankTable":
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        kept = np.minimum(lengths, width)
        items = np.full((len(ids), max(1, int(kept.max(initial=0)))), _PADDING)
        filled = np.arange(items.shape[1]) < kept[:, None]
        named = chain.from_iterable(ranking[:width] for ranking in ids)
        items[filled] = truth._items.places.find(named)
        codes = truth._item_codes[items]
        slots = np.full(items.shape, -1)
        for slot in range(wanted.codes.shape[1]):
            slots[codes == wanted.codes[:, slot, None]] = slot
        return cls(items, slots, lengths)

    def without_repeats(self) -> "_RankTable":
        """The same rankings, in which a repeated item is a hit only the first time."""
        width = self.items.shape[1]
        # Item and rank in one number: a plain sort is several times faster than an argsort.
        items, ranks = np.divmod(np.sort(self.items * width + np.arange(width), axis=1), width)
        again = np.zeros(items.shape, bool)
        again[:, 1:] = (items[:, 1:] == items[:, :-1]) & (items[:, 1:] >= 0)
        repeated = np.zeros_like(again)
        np.put_along_axis(repeated, ranks, again, axis=1)
        return _RankTable(self.items, np.where(repeated, -1, self.slots), self.lengths)

    @cached_property
    def hits(self) -> Int[np.ndarray, "Q W"]:
        """Number of hits up to each rank."""
        return np.cumsum(self.slots >= 0, axis=1)

    @cached_property
    def gains(self) -> Float[np.ndarray, "Q W"]:
        """Sum of the precisions at the hits up to each rank."""
        ranks = np.arange(1, self.slots.shape[1] + 1)
        return np.cumsum(np.where(self.slots >= 0, self.hits / ranks, 0.0), axis=1)

    def retrieved(self, depth: int, num_slots: int) -> Int[np.ndarray, "Q S"]:
        """Number of items with each wanted label among the first `depth`."""
        slots = self.slots[:, :depth]
        keys = np.arange(len(slots))[:, None] * num_slots + slots
        counts = np.bincount(keys[slots >= 0], minlength=len(slots) * num_slots)
        return counts.reshape(len(slots), num_slots)


_Columns = tuple[Float[np.ndarray, " Q"], Float[np.ndarray, " Q"], Float[np.ndarray, " Q"]]


def _official(table: _RankTable, wanted: _Wanted, depth: int) -> _Columns:
    """AP, AR and precision at a depth, exactly as the released code computes them."""
    num_relevant = (wanted.occurrences * wanted.sizes).sum(
        axis=1
    )  # a label counts once per occurrence
    cut = np.minimum(np.minimum(depth, num_relevant), table.lengths)
    scored = wanted.complete & (cut > 0)
    hits, gain = _at(table.hits, cut), _at(table.gains, cut)
    ap = np.where(scored, gain / np.maximum(hits, 1), 0.0)
    precision = np.where(scored, hits / np.maximum(cut, 1), 0.0)
    quota = depth // np.maximum(
        wanted.num_labels, 1
    )  # rounded down, so the shares may add up to less
    expected = np.minimum(wanted.occurrences * quota[:, None], wanted.sizes)
    recall = _recall(table, wanted, depth, expected)
    fails = (quota == 0) | (table.items[:, :depth] == _UNKNOWN).any(axis=1)
    return ap, np.where(scored & ~fails, recall, 0.0), precision


def _strict(table: _RankTable, wanted: _Wanted, depth: int) -> _Columns:
    """AP over min(relevant, N), AR over each label's share of N, precision over N (ours)."""
    cut = np.full(len(table.items), depth)
    hits, gain = _at(table.hits, cut), _at(table.gains, cut)
    ap = gain / np.minimum(wanted.sizes.sum(axis=1), depth)
    share = np.rint(depth * wanted.occurrences / wanted.num_labels[:, None]).astype(np.int64)
    expected = np.minimum(np.maximum(share, 1), wanted.sizes)  # 0 in unused slots
    return ap, _recall(table, wanted, depth, expected), hits / depth


def _recall(
    table: _RankTable, wanted: _Wanted, depth: int, expected: Int[np.ndarray, "Q S"]
) -> Float[np.ndarray, " Q"]:
    retrieved = np.minimum(table.retrieved(depth, expected.shape[1]), expected)
    shares = retrieved / np.maximum(expected, 1)
    return np.asarray(shares.sum(axis=1) / np.maximum(wanted.num_distinct, 1))


def _at(cumulated: Float[np.ndarray, "Q W"], cut: Int[np.ndarray, " Q"]) -> np.ndarray:
    """Each row's value after `cut` ranks; the last value if the row is shorter."""
    last = np.clip(cut - 1, 0, cumulated.shape[1] - 1)
    return np.take_along_axis(cumulated, last[:, None], axis=1)[:, 0]


def _answerable(
    pairs: Sequence[tuple[str, Sequence[str]]], truth: GroundTruth
) -> list[tuple[str, Sequence[str]]]:
    """Rankings whose query has a label in the gallery; RetrievalError if there are none."""
    unknown = [query_id for query_id, _ in pairs if query_id not in truth.query_labels]
    if unknown:
        raise RetrievalError(
            f"{len(unknown)} of {len(pairs)} rankings are of queries without labels (the first is "
            f"{unknown[0]!r}): the rankings belong to other queries, or the query list is "
            "incomplete; only `official` scores them, with 0"
        )
    missing = truth.missing_labels
    kept = [
        (query_id, ids)
        for query_id, ids in pairs
        if any(label not in missing for label in truth.query_labels[query_id])
    ]
    if not kept:
        raise RetrievalError(
            f"none of the {len(pairs)} queries has a label that the gallery has; "
            "the queries and the gallery belong to different data sets"
        )
    return kept


def _look_up(codes: Mapping[str, int], names: Iterable[str]) -> Int[np.ndarray, " N"]:
    return np.fromiter(map(codes.get, names, repeat(_UNKNOWN)), np.int64)
