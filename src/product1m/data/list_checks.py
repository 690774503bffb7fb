"""Read the lists of a data set, without photos, and raise an error if no run could succeed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from product1m.config import BackgroundSynthesisConfig, IndexingConfig, IngestionConfig
from product1m.data.duplicates import assign_splits, duplicate_groups, key_of
from product1m.data.early_checks import (
    SPLITS,
    check_cutouts,
    check_index_fits,
    check_labels,
    check_splits,
)
from product1m.data.limits import title_fault
from product1m.data.lists import ListFile, ListItem, RejectedLine, Role, count_lines, read_list
from product1m.data.quarantine import Quarantine


@dataclass
class _Queries:
    places: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    labels: list[tuple[str, ...]] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)


def check_lists(
    lists: Mapping[Role, Sequence[ListFile]],
    ingestion: IngestionConfig,
    synthesis: BackgroundSynthesisConfig,
    indexing: IndexingConfig,
) -> None:
    """DatasetError or ConfigError for lists that a step of the run would refuse.

    Unusable photos can still change the result, so ingestion checks again.
    """
    train = _items(lists["train"], ingestion)
    check_cutouts((item.caption for item in train), synthesis.set_words)
    gallery: set[str] = set()
    num_items = 0
    for item in _items(lists["gallery"], ingestion):
        gallery.add(item.labels[0])
        num_items += 1
    check_index_fits(indexing.factory, min(num_items, indexing.num_training_items))
    queries = _Queries()
    for item in _items(lists["queries"], ingestion):
        queries.places.append(f"{item.list_name}:{item.line}")
        queries.ids.append(item.id)
        queries.captions.append(item.caption)
        queries.labels.append(item.labels)
        queries.splits.append(item.split)
    _check_queries(queries, gallery, ingestion)


def _check_queries(queries: _Queries, gallery: set[str], config: IngestionConfig) -> None:
    captions = np.array([key_of(caption) for caption in queries.captions], np.uint64)
    groups = duplicate_groups(np.arange(len(captions), dtype=np.uint64), captions)
    splits = assign_splits(queries.splits, groups, queries.ids, config.dev_share, config.seed)
    check_splits(queries.splits, splits, len(np.unique(groups)), config.dev_share)
    rows = list(zip(splits, queries.places, queries.labels, strict=True))
    by_split = {
        split: [(place, labels) for own, place, labels in rows if own == split] for split in SPLITS
    }
    check_labels(by_split, gallery)


def _items(files: Sequence[ListFile], config: IngestionConfig) -> Iterator[ListItem]:
    """The usable lines; DatasetError with the first reasons if too many are not."""
    num_rows = sum(count_lines(file.path)[0] for file in files)
    quarantine = Quarantine(files[0].role, num_rows, config.max_quarantine_share)
    num_items = 0
    for row in chain.from_iterable(map(read_list, files)):
        if isinstance(row, RejectedLine):
            quarantine.add(row)
        elif fault := title_fault(row.caption, config.max_title_bytes):
            quarantine.add(row.rejected(f"caption: {fault}"))
        else:
            num_items += 1
            yield row
    quarantine.require_items(num_items, files[0].path)
