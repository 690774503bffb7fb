"""The catalogue's index: changed in place, or rebuilt where that is not good enough."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int64

from product1m.artifacts.folder import Artifact
from product1m.catalogue.intake import read_rows
from product1m.errors import RetrievalError
from product1m.retrieval.building import RECALL_DEPTH
from product1m.retrieval.index import (
    INDEX,
    VECTOR_ID,
    ExactSearch,
    GalleryIndex,
    make_index,
    probes_of,
    reach_recall,
    read_index,
    recall_at_depth,
    set_probes,
    write_index,
)
from product1m.retrieval.refreshing import (
    add_items,
    clipped_share,
    remove_items,
    require_refreshable,
    with_ids,
)

logger = logging.getLogger(__name__)

Vectors = Callable[[pd.DataFrame], Float32[np.ndarray, "n D"]]
"""Rows of items to their vectors."""
PROBES_WHEN_BUILT = "probes_when_built"
"""Metric of a catalogue."""
_MOST_GROWTH = 2
"""Factor by which changes in place may raise the probes; then the index is rebuilt (ours)."""
CHUNK = 4096
"""Items added or compared at the same time (ours)."""


@dataclass(frozen=True)
class CatalogueIndexSettings:
    """How a catalogue's index is built and when it is rebuilt."""

    factory: str
    probes: int
    num_training_items: int
    num_recall_queries: int
    min_recall: float
    max_clipped_share: float
    seed: int


@dataclass(frozen=True)
class FilledIndex:
    """An index as it was read again from its file, so that removed items take no memory."""

    gallery: GalleryIndex
    rows: pd.DataFrame
    """The items, with the ids of their vectors, ascending."""
    recall: float
    clipped_share: float
    """Share of the added vectors outside the range of the codes."""
    rebuilt: bool
    probes_when_built: int
    """How much of it a query visited when it was built; changes may double that."""


@dataclass(frozen=True)
class Changes:
    """What distinguishes two states of a catalogue, as item ids."""

    added: list[str]
    removed: list[str]
    changed: list[str]
    """Another photo or caption."""

    @classmethod
    def between(cls, before: pd.DataFrame, after: pd.DataFrame) -> "Changes":
        """Compare two tables with the columns id, caption, sha256."""
        old, new = _content(before), _content(after)
        return cls(
            [item for item in new if item not in old],
            [item for item in old if item not in new],
            [item for item in new if item in old and old[item] != new[item]],
        )

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


def _content(rows: pd.DataFrame) -> dict[str, tuple[str, str]]:
    content = zip(rows["sha256"], rows["caption"], strict=True)
    return dict(zip(rows["id"], content, strict=True))


def refresh_index(
    before: Artifact | None,
    items: pd.DataFrame,
    vectors: Vectors,
    settings: CatalogueIndexSettings,
    folder: Path,
) -> FilledIndex:
    """Write the index of `items` to a folder, by changing the index of `before` if there is one.

    It is rebuilt if its vectors have another length, if new vectors lie outside the range of its
    codes, or if it finds too few of the true neighbors. Raises RetrievalError for a factory string
    that cannot be changed in place or that needs more items.
    """
    if before is not None:
        filled = _changed_in_place(before, items, vectors, settings, folder)
        if filled is None:
            why = "its vectors have another length than the model's"
        elif filled.clipped_share > settings.max_clipped_share:
            why = f"{filled.clipped_share:.1%} of the new vectors are outside its range"
        elif filled.recall < settings.min_recall:
            why = f"recall@{RECALL_DEPTH} is {filled.recall:.4f}"
        else:
            return filled
        logger.info("catalogue: rebuilding the index, because %s", why)
    index = _built(items, vectors, settings)
    rows = with_ids(index, items)
    return _measured(index, rows, vectors, settings, folder, 0.0)


def _changed_in_place(
    before: Artifact,
    items: pd.DataFrame,
    vectors: Vectors,
    settings: CatalogueIndexSettings,
    folder: Path,
) -> FilledIndex | None:
    """The changed index; None if it holds vectors of another length, as after an upgrade."""
    index = read_index(before.file(INDEX))
    if len(items) and vectors(items.iloc[:1]).shape[1] != index.d:
        return None
    require_refreshable(index, settings.factory)
    set_probes(index, max(settings.probes, probes_of(index)))
    rows = with_ids(index, read_rows(before))
    changes = Changes.between(rows, items)
    rows = remove_items(index, rows, {*changes.removed, *changes.changed})
    new = items[items["id"].isin({*changes.added, *changes.changed})]
    new_vectors = vectors(new) if len(new) else np.empty((0, index.d), np.float32)
    clipped = clipped_share(index, new_vectors)
    rows = add_items(index, rows, new, new_vectors)
    labels = dict(zip(items["id"], items["labels"], strict=True))
    rows["labels"] = [labels[item] for item in rows["id"]]
    when_built = int(before.manifest.metrics.get(PROBES_WHEN_BUILT, settings.probes))
    return _measured(index, rows, vectors, settings, folder, clipped, when_built)


def _built(items: pd.DataFrame, vectors: Vectors, settings: CatalogueIndexSettings) -> Any:
    """Train an index on a sample of the items and add all of them."""
    if not len(items):
        raise RetrievalError("the catalogue has no item; there is nothing to index")
    sample = _sample(len(items), settings.num_training_items, settings.seed)
    training = vectors(items.iloc[sample])
    index = make_index(
        settings.factory, training.shape[1], len(training), settings.probes, settings.seed
    )
    require_refreshable(index, settings.factory)
    index.train(training)
    for chunk in _chunks(items):
        index.add(vectors(chunk))
    return index


def _measured(
    index: Any,
    rows: pd.DataFrame,
    vectors: Vectors,
    settings: CatalogueIndexSettings,
    folder: Path,
    clipped: float,
    probes_when_built: int | None = None,
) -> FilledIndex:
    """Write the index, read it again, and compare what it finds with exact search.

    As many probes are set as reach the recall, of an index that was changed in place at most twice
    as many as when it was built; None if it has just been built.
    """
    queries = vectors(rows.iloc[_sample(len(rows), settings.num_recall_queries, settings.seed)])
    exact = ExactSearch(queries, RECALL_DEPTH)
    for chunk in _chunks(rows):
        exact.add(vectors(chunk))
    truth = exact.positions()
    vector_ids = rows[VECTOR_ID].to_numpy(np.int64)
    most = None if probes_when_built is None else _MOST_GROWTH * probes_when_built
    reach_recall(index, queries, vector_ids[truth], settings.min_recall, most)
    write_index(index, folder / INDEX)
    own = probes_of(index) if probes_when_built is None else probes_when_built
    del index
    gallery = GalleryIndex(read_index(folder / INDEX), rows)
    _, nearest = gallery.search(queries, truth.shape[1])
    recall = recall_at_depth(nearest, truth)
    return FilledIndex(gallery, rows, recall, clipped, probes_when_built is None, own)


def _sample(num_items: int, size: int, seed: int) -> Int64[np.ndarray, " S"]:
    generator = np.random.default_rng(seed)
    return np.sort(generator.choice(num_items, min(num_items, size), replace=False))


def _chunks(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    for start in range(0, len(rows), CHUNK):
        yield rows.iloc[start : start + CHUNK]
