"""Slices of the queries, each with its definition in words."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float

from product1m.errors import RetrievalError
from product1m.evaluation.statistics import BootstrapPlan, bootstrap_interval

MIN_BRAND_QUERIES = 5
"""A brand with fewer queries is counted under `other` (ours)."""
THIRDS = ("rare", "medium", "frequent")
SISTER_SIMILARITY = 0.7
"""Two products of a brand whose names are at least so alike are sisters (ours)."""

DEFINITIONS = {
    "products": "products in the photo, as labelled, repeats counted.",
    "brand": "the labels' first word; several: they differ; other: brands with fewer than "
    f"{MIN_BRAND_QUERIES} queries.",
    "class_frequency": "queries ranked by how many queries ask for their labels, on average, and "
    "cut in thirds.",
    "sisters": "yes: a label has a sister in the gallery, another product of its brand whose name "
    f"is at least {SISTER_SIMILARITY:.0%} alike (longest common blocks of characters).",
    "named_in_train": "yes: for every label a training title holds its brand and its name, case "
    "and blanks apart. Training photos have no labels, so a class that no title names may still "
    "have been seen.",
}


def slices_of(
    query_labels: Mapping[str, tuple[str, ...]],
    gallery_labels: Iterable[str],
    train_titles: Mapping[str, int] | None = None,
) -> pd.DataFrame:
    """Which slices a query belongs to: a column a slicing of `DEFINITIONS`, index query_id.

    `train_titles` counts the training titles that name a class; without it, or where it lacks a
    label, there is no `named_in_train`.
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
        "sisters": _yes_or_no(not with_sisters.isdisjoint(of) for of in query_labels.values()),
    }
    if train_titles is not None and train_titles.keys() >= frequency.keys():
        columns["named_in_train"] = _yes_or_no(
            all(train_titles[label] for label in of) for of in query_labels.values()
        )
    return pd.DataFrame(columns, index=pd.Index(list(query_labels), name="query_id"))


def classes_with_sisters(labels: Iterable[str]) -> set[str]:
    """The labels that another of the same brand resembles."""
    by_brand: defaultdict[str, list[str]] = defaultdict(list)
    for label in sorted(set(labels)):
        by_brand[label.partition(" ")[0]].append(label)
    found: set[str] = set()
    for of_brand in by_brand.values():
        for one, other in combinations(of_brand, 2):
            names = one.partition(" ")[2], other.partition(" ")[2]
            matcher = SequenceMatcher(None, *names, autojunk=False)
            if matcher.quick_ratio() >= SISTER_SIMILARITY <= matcher.ratio():
                found |= {one, other}
    return found


def slice_intervals(scores: pd.Series, slices: pd.DataFrame, plan: BootstrapPlan) -> pd.DataFrame:
    """Interval of a score in every slice: columns by, slice, num_queries, mean, low, high.

    `scores` holds one value a query, indexed by query id; queries without a score are left out.
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
    brands = [{label.split(" ")[0] for label in of_query} for of_query in labels]
    names = [next(iter(found)) if len(found) == 1 else "several" for found in brands]
    counts = Counter(names)
    return [name if counts[name] >= MIN_BRAND_QUERIES else "other" for name in names]


def _thirds(values: Float[np.ndarray, " Q"]) -> list[str]:
    """By mean rank, so that equal values fall into the same third."""
    middles = (pd.Series(values).rank() - 0.5) / len(values)
    return [THIRDS[int(3 * middle)] for middle in middles]


def _yes_or_no(answers: Iterable[bool]) -> list[str]:
    return ["yes" if answer else "no" for answer in answers]


def _order(name: str) -> tuple[int, str]:
    last = [*THIRDS, "yes", "no", "several", "other"]
    return (last.index(name) + 1, "") if name in last else (0, name)
