"""Checks that stop a run early on data or settings that a later step would refuse.

The start of a run applies them to the lists, and ingestion to the items whose photos are usable.
Each message says which setting or list to change.
"""

import difflib
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence

from product1m.data.class_names import names_set
from product1m.errors import ConfigError, DatasetError

SPLITS = ("dev", "test")
MAX_COMPARED = 20_000
"""Largest number of gallery labels among which the most similar one is searched (ours)."""
POINTS_PER_CELL = 39
"""Training points per cell below which FAISS warns that its k-means will be poor (FAISS)."""
_CELLS = re.compile(r"IVF(\d+)")
_CODEBOOK = re.compile(r"PQ\d+(?:x(\d+))?(fs)?")


def check_splits(
    given: Sequence[str], assigned: Sequence[str], num_groups: int, dev_share: float
) -> None:
    """DatasetError if no query is dev or none is test.

    Args:
        given: the split of each query in the lists, empty if they give none.
        assigned: the final split of each query.
        num_groups: groups of queries that share a photo or caption and cannot be divided.
        dev_share: `ingestion.dev_share`.
    """
    for split in SPLITS:
        if split in assigned:
            continue
        count = len(assigned)
        if all(given):
            reason = (
                f'all {count} have the split {given[0]!r}; give some "split": "{split}", or leave '
                "`split` out of every line, so that ingestion.dev_share decides"
            )
        elif num_groups == 1 and count > 1:
            reason = (
                f"all {count} share one caption or photo, so they cannot be divided into dev and "
                "test; give each query its own title"
            )
        else:
            reason = (
                f"ingestion.dev_share = {dev_share:g} of {count} queries leaves none for this one; "
                "add queries or set a dev_share that gives both splits some"
            )
        raise DatasetError(
            f"queries: no {split} query, but weights are chosen on dev queries and measured on "
            f"test queries: {reason}"
        )


def check_labels(
    labels_by_split: Mapping[str, Sequence[tuple[str, Sequence[str]]]], gallery: Collection[str]
) -> None:
    """DatasetError if no dev or no test query has a label of the gallery.

    Args:
        labels_by_split: for each split, the place in the lists and the labels of each query.
        gallery: every label of the gallery.
    """
    for split, queries in labels_by_split.items():
        if any(label in gallery for _, labels in queries for label in labels):
            continue
        place, labels = queries[0]
        near = near_label(labels[0], gallery)
        hint = f"; the nearest is {near!r}" if near else f", which has {min(gallery)!r} and others"
        raise DatasetError(
            f"queries: none of the {len(queries)} {split} queries has a label that the gallery "
            f"has, so none can be scored: {labels[0]!r} of {place} is not in the gallery{hint}; "
            "spell labels the same way in both lists"
        )


def check_train_groups(num_items: int, num_groups: int) -> None:
    """DatasetError if scenes for training and for measuring would show the same product."""
    if num_groups < 2:
        raise DatasetError(
            f"train: {num_items} items of {num_groups} product (items with the same photo or "
            "caption count as one); scenes for training and for measuring need different "
            "products: give every item its own caption"
        )


def check_cutouts(captions: Iterable[str], set_words: Sequence[str]) -> None:
    """DatasetError if fewer than two different titles name a single product."""
    single: set[str] = set()
    total = 0
    for caption in captions:
        total += 1
        if not names_set(caption, set_words):
            single.add(caption)
        if len(single) > 1:
            return
    raise DatasetError(
        f"train: {len(single)} of {total} items can be cut out, because the others have the same "
        "title or one with a word of background_synthesis.set_words; scenes need at least two "
        "single products: add such items or shorten set_words"
    )


def check_index_fits(factory: str, num_items: int) -> None:
    """ConfigError if an index needs more gallery items to train on than there are.

    Parts of the factory string that are unknown here are left to FAISS.
    """
    cells = _CELLS.search(factory)
    code = _CODEBOOK.search(factory)
    bits = (4 if code[2] else int(code[1] or 8)) if code else 0
    needed = max(int(cells[1]) if cells else 0, 2**bits if code else 0)
    if num_items < needed:
        raise ConfigError(too_few_to_train(factory, needed, num_items))


def too_few_to_train(factory: str, needed: int, num_items: int) -> str:
    """The error message for a gallery that is too small for an index."""
    return (
        f"indexing.factory={factory!r} needs at least {needed} training points, the gallery "
        f"gives {num_items}; set indexing.factory={fitting_index(num_items)}"
    )


def fitting_index(num_items: int) -> str:
    """An index that a gallery of this size can train well."""
    cells = 1
    while cells * 2 * POINTS_PER_CELL <= num_items:
        cells *= 2
    return f"IVF{cells},SQ8" if cells >= 16 else "Flat"


def near_label(label: str, known: Collection[str]) -> str:
    """The label that differs only in case, spaces or Unicode form, else the most similar one.

    Empty if none is similar.
    """
    form = _form(label)
    same = next((other for other in known if _form(other) == form), "")
    if same:
        return same
    compared = sorted(known)[:MAX_COMPARED]
    return next(iter(difflib.get_close_matches(label, compared, 1, 0.75)), "")


def _form(label: str) -> str:
    return "".join(unicodedata.normalize("NFKC", label).casefold().split())
