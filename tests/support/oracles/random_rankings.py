"""Random rankings for comparisons with other packages; needs numpy alone."""

import numpy as np

NUM_QUERIES = 60
Lists = tuple[dict[str, tuple[str, ...]], dict[str, str], dict[str, list[str]]]
"""Labels of each query, the label of each gallery item, the ranking of each query."""
SIZES = {"few": (5, 12), "many": (12, 6)}
"""Items of a class and number of classes: a query has 5 or 10 relevant items, or 12 or 24."""


def random_lists(kind: str) -> Lists:
    """Queries for one or two classes, whose items come early in the ranking more often than not."""
    items_per_class, num_classes = SIZES[kind]
    generator = np.random.default_rng(items_per_class)
    labels = [f"c{number}" for number in range(num_classes)]
    gallery = {f"{label}-{n}": label for label in labels for n in range(items_per_class)}
    items = np.array(list(gallery))
    queries, rankings = {}, {}
    for number in range(NUM_QUERIES):
        asked = generator.choice(labels, generator.integers(1, 3), replace=False).tolist()
        relevant = np.isin([gallery[item] for item in items], asked)
        order = np.argsort(generator.random(len(items)) - 0.2 * relevant)
        queries[f"q{number}"] = tuple(asked)
        rankings[f"q{number}"] = items[order][:25].tolist()
    return queries, gallery, rankings
