"""Both metric definitions as plain loops over one query, from their description in words."""

from collections import Counter
from collections.abc import Mapping, Sequence

Truth = tuple[Mapping[str, Sequence[str]], Mapping[str, str]]
"""Labels of each query, label of each gallery item."""


def official(query: str, ranking: Sequence[str], truth: Truth, depth: int) -> list[float]:
    """AP, AR, precision; 0 for all that follows the first stumble."""
    query_labels, gallery_label = truth
    if query not in query_labels:
        return [0.0, 0.0, 0.0]
    labels = list(query_labels[query])
    positives: list[str] = []
    for label in labels:  # once per occurrence, so a class can be in the list several times
        of_class = [item for item, its_label in gallery_label.items() if its_label == label]
        if not of_class:
            return [0.0, 0.0, 0.0]
        positives.extend(of_class)
    cut = min(depth, len(positives), len(ranking))
    if cut == 0:
        return [0.0, 0.0, 0.0]
    hits, gain = 0, 0.0
    for rank in range(1, cut + 1):
        if ranking[rank - 1] in positives:
            hits += 1
            gain += hits / rank
    ap = gain / hits if hits else 0.0
    return [ap, _official_recall(labels, ranking[:depth], gallery_label, depth), hits / cut]


def _official_recall(
    labels: Sequence[str], head: Sequence[str], gallery_label: Mapping[str, str], depth: int
) -> float:
    expected = {}
    for label, count in Counter(labels).items():
        in_gallery = sum(its_label == label for its_label in gallery_label.values())
        expected[label] = min(count * (depth // len(labels)), in_gallery)
    retrieved: Counter[str] = Counter()
    for item in head:
        if item not in gallery_label:
            return 0.0
        if gallery_label[item] in expected:
            retrieved[gallery_label[item]] += 1
    total = 0.0
    for label, count in retrieved.items():
        if expected[label] == 0:
            return 0.0
        total += min(count, expected[label]) / expected[label]
    return total / len(expected)


def strict(query: str, ranking: Sequence[str], truth: Truth, depth: int) -> list[float] | None:
    """AP, AR, precision; None for a query none of whose labels the gallery has."""
    query_labels, gallery_label = truth
    sizes = Counter(gallery_label.values())
    labels = [label for label in query_labels[query] if sizes[label]]
    if not labels:
        return None
    relevant = sum(sizes[label] for label in set(labels))
    seen: set[str] = set()
    retrieved: Counter[str] = Counter()
    gain = 0.0
    for rank, item in enumerate(ranking[:depth], start=1):
        if item not in seen and gallery_label.get(item) in labels:
            seen.add(item)
            retrieved[gallery_label[item]] += 1
            gain += len(seen) / rank
    recall = 0.0
    for label in set(labels):
        share = max(1, round(depth * labels.count(label) / len(labels)))
        recall += min(1.0, retrieved[label] / min(share, sizes[label]))
    return [gain / min(relevant, depth), recall / len(set(labels)), len(seen) / depth]


def released(lists: Mapping[str, str], ranking_file: str, depth: int) -> list[float]:
    """Means of AP, AR, precision as the released script gets them from the text of its four files.

    `lists` holds the texts of the gallery's, the test's and the dev's list. Every line of
    the ranking file counts as a query, also one without anything on it.
    """
    labels = {name: _labels(lists[name]) for name in ("gallery", "test", "dev")}
    query_labels = dict(labels["test"])
    query_labels.update(labels["dev"])
    truth = (
        query_labels,
        {item: item_labels[0] for item, item_labels in labels["gallery"].items()},
    )
    sums, count = [0.0, 0.0, 0.0], 0
    for line in ranking_file.splitlines():
        query, *ranking = line.strip().split(",")
        count += 1
        for place, value in enumerate(official(query, ranking, truth, depth)):
            sums[place] += value
    return [total / count for total in sums]


def _labels(text: str) -> dict[str, list[str]]:
    found = {}
    for line in text.splitlines():
        fields = line.strip().split("#####")
        found[fields[0]] = fields[4].split("#;#")
    return found
