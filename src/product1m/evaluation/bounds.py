"""The two ends of the scale: a random ranking, and the best ranking that the labels allow."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from product1m.data.texts import Texts
from product1m.retrieval.merging import round_robin


def random_rankings(
    query_ids: Sequence[str], gallery_ids: Texts, depth: int, seed: int
) -> dict[str, list[str]]:
    """Every query gets its own random sample of the gallery."""
    generator = np.random.default_rng(seed)
    depth = min(depth, len(gallery_ids))
    return {
        query: gallery_ids.at(generator.choice(len(gallery_ids), depth, replace=False))
        for query in query_ids
    }


def items_by_label(gallery_label: Mapping[str, str]) -> dict[str, list[str]]:
    """Gallery items of each label, in the gallery's order."""
    items: defaultdict[str, list[str]] = defaultdict(list)
    for item, label in gallery_label.items():
        items[label].append(item)
    return dict(items)


def oracle_rankings(
    query_labels: Mapping[str, Sequence[str]], gallery_label: Mapping[str, str], depth: int
) -> dict[str, list[str]]:
    """The labels of a query take turns in listing gallery items of their class."""
    items = items_by_label(gallery_label)
    return {
        query: round_robin([items.get(label, []) for label in labels], depth)
        for query, labels in query_labels.items()
    }
