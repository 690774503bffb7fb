"""Slice the queries by products, brand, frequency, sisters, training titles and dev labels."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float

from product1m.errors import RetrievalError
from product1m.evaluation.statistics import BootstrapPlan, bootstrap_interval

MIN_BRAND_QUERIES = 5
"""Brands with fewer queries count as `other` (ours)."""
THIRDS = ("rare", "medium", "frequent")
SISTER_SIMILARITY = 0.7
"""Two products of a brand are sisters if their names are at least this similar (ours)."""

DEFINITIONS = {
    "products": "number of products in the photo, as labeled, with repeats.",
    "brand": "first word of the labels; several: the labels have different brands; other: brands "
    f"with fewer than {MIN_BRAND_QUERIES} queries.",
    "class_frequency": "thirds of the queries, by the mean number of queries that ask for "
    "their labels.",
    "sisters": "yes: for one of the labels the gallery has a sister, another product of the same "
    f"brand with a name at least {SISTER_SIMILARITY:.0%} similar (longest common blocks of "
    "characters).",
    "named_in_train": "yes: for every label a training title contains its brand and its name, "
    "ignoring case and blanks. Training photos have no labels, so a product that no title names "
    "may still have been seen.",
    "labels_in_dev": "yes: a dev query asks for the same set of labels, repeats aside. The block "
    "weights are chosen on dev queries, and whoever remembers their labels can answer by title.",
}


def slices_of(
    query_labels: Mapping[str, tuple[str, ...]],
    gallery_labels: Iterable[str],
    train_titles: Mapping[str, int] | None = None,
    dev_labels: Iterable[Sequence[str]] | None = None,
) -> pd.DataFrame:
    """The slices each query is in: one column per entry of `DEFINITIONS`, index query_id.

    `train_titles` is the number of training titles that name each class; without it, or if a label
    is missing there, the column `named_in_train` is left out. `dev_labels` are the labels of each
    dev query; without them `labels_in_dev` is left out.
    """
    if not query_labels:
        raise RetrievalError("no queries to slice; the query list is empty")
    frequency = Counter(label for labels in query_labels.values() for label in set(labels))
    per_query = [
        float(np.mean([frequency[label] for label in sorted(set(labels))])) if labels else 0.0
        for labels in query_labels.values()
    ]
    with_sisters = classes_with_sisters({*gallery_labels})
    columns = {
        "products": [_count_name(len(labels)) for labels in query_labels.values()],
        "brand": _brands(query_labels.values()),
        "class_frequency": _thirds(np.array(per_query)),
        "sisters": _yes_or_no(
            not with_sisters.isdisjoint(labels) for labels in query_labels.values()
        ),
    }
    if train_titles is not None and train_titles.keys() >= frequency.keys():
        columns["named_in_train"] = _yes_or_no(
            all(train_titles[label] for label in labels) for labels in query_labels.values()
        )
    if dev_labels is not None:
        known = {frozenset(labels) for labels in dev_labels}
        columns["labels_in_dev"] = _yes_or_no(
            frozenset(labels) in known for labels in query_labels.values()
        )
    return pd.DataFrame(columns, index=pd.Index(list(query_labels), name="query_id"))


def classes_with_sisters(labels: Iterable[str]) -> set[str]:
    """Labels that have a sister: another label of the same brand with a similar name."""
    by_brand: defaultdict[str, list[str]] = defaultdict(list)
    for label in sorted(set(labels)):
        by_brand[label.partition(" ")[0]].append(label)
    sisters: set[str] = set()
    for products in by_brand.values():
        for label, other in combinations(products, 2):
            names = label.partition(" ")[2], other.partition(" ")[2]
            matcher = SequenceMatcher(None, *names, autojunk=False)
            if matcher.quick_ratio() >= SISTER_SIMILARITY <= matcher.ratio():
                sisters |= {label, other}
    return sisters


def slice_intervals(scores: pd.Series, slices: pd.DataFrame, plan: BootstrapPlan) -> pd.DataFrame:
    """Interval of a score in every slice: columns by, slice, num_queries, mean, low, high.

    `scores` holds one value per query id; queries without a score are left out.
    """
    rows = []
    for by in slices.columns:
        groups = scores.groupby(slices[by].reindex(scores.index), sort=False)
        for name, values in sorted(groups, key=lambda group: _order(str(group[0]))):
            interval = bootstrap_interval(values, plan)
            rows.append({"by": by, "slice": name, "num_queries": len(values), **interval.as_dict()})
    return pd.DataFrame(rows)


def _count_name(num_products: int) -> str:
    return "4+" if num_products >= 4 else str(num_products)


def _brands(labels: Iterable[tuple[str, ...]]) -> list[str]:
    brands = [{label.split(" ")[0] for label in row} for row in labels]
    names = [next(iter(brand)) if len(brand) == 1 else "several" for brand in brands]
    counts = Counter(names)
    return [name if counts[name] >= MIN_BRAND_QUERIES else "other" for name in names]


def _thirds(values: Float[np.ndarray, " Q"]) -> list[str]:
    """Thirds by mean rank, so that equal values are in the same third."""
    middles = (pd.Series(values).rank() - 0.5) / len(values)
    return [THIRDS[int(3 * middle)] for middle in middles]


def _yes_or_no(answers: Iterable[bool]) -> list[str]:
    return ["yes" if answer else "no" for answer in answers]


def _order(name: str) -> tuple[int, str]:
    last = [*THIRDS, "yes", "no", "several", "other"]
    return (last.index(name) + 1, "") if name in last else (0, name)
