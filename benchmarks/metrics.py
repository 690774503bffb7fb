"""Time the metrics at the size of Product1M against plain loops as in the released script.

    python benchmarks/metrics.py

Both score the same random lists: 6,547 queries of 100 gallery ids, 40,033 gallery items, 392
classes. Nothing is read from disk.
"""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from product1m.config import EvaluationConfig
from product1m.evaluation.metrics import DEPTHS, GroundTruth, mean_scores, score_queries
from product1m.evaluation.statistics import (
    METRIC_NAMES,
    BootstrapPlan,
    bootstrap_intervals,
    paired_difference,
)

NUM_QUERIES, NUM_ITEMS, NUM_CLASSES, LENGTH = 6547, 40033, 392, 100
HIT_RATE = 0.4

T = TypeVar("T")


def main() -> None:
    query_labels, gallery_label, rankings = random_lists(np.random.default_rng(0))

    loop_s, expected = timed(lambda: plain_loops(rankings, query_labels, gallery_label))
    # A new truth each time, because its lookup tables are part of the cost.
    official_s, official = timed(
        lambda: score_queries(rankings, GroundTruth(query_labels, gallery_label), "official"), 3
    )
    strict_s, strict = timed(
        lambda: score_queries(rankings, GroundTruth(query_labels, gallery_label), "strict"), 3
    )
    means = mean_scores(official)
    worst = max(abs(means[str(n)][name] - value) for (n, name), value in expected.items())

    ap = strict[strict["depth"] == 10].set_index("query_id")["ap"]
    wide = strict.pivot(index="query_id", columns="depth", values=list(METRIC_NAMES))
    plan = BootstrapPlan.from_config(EvaluationConfig())
    interval_s, _ = timed(lambda: bootstrap_intervals(wide, plan))
    difference_s, _ = timed(lambda: paired_difference(ap, ap * 0.9, plan))
    print(
        json.dumps(
            {
                "plain_loops_s": round(loop_s, 2),
                "official_s": round(official_s, 3),
                "strict_s": round(strict_s, 3),
                "speedup": round(loop_s / official_s, 1),
                "largest_difference": worst,
                "nine_intervals_s": round(interval_s, 2),
                "one_paired_difference_s": round(difference_s, 2),
            },
            indent=2,
        )
    )


def random_lists(
    rng: np.random.Generator,
) -> tuple[dict[str, tuple[str, ...]], dict[str, str], dict[str, list[str]]]:
    """Lists with class frequencies as in the real lists; two of five ranked items are hits."""
    weights = 1 / np.arange(10, NUM_CLASSES + 10)
    weights /= weights.sum()
    items = [str(500_000_000_000 + number) for number in range(NUM_ITEMS)]
    classes = rng.choice(NUM_CLASSES, NUM_ITEMS, p=weights)
    by_class = [np.flatnonzero(classes == code) for code in range(NUM_CLASSES)]
    query_labels, rankings = {}, {}
    for number in range(NUM_QUERIES):
        query = str(600_000_000_000 + number)
        wanted = rng.choice(NUM_CLASSES, rng.choice([1, 2, 3, 4, 5, 7], p=SIZES), p=weights)
        relevant = np.concatenate([by_class[code] for code in wanted])
        hits = rng.random(LENGTH) < HIT_RATE
        ranked = np.where(hits, rng.choice(relevant, LENGTH), rng.integers(NUM_ITEMS, size=LENGTH))
        query_labels[query] = tuple(f"brand product {code}" for code in wanted)
        rankings[query] = [items[position] for position in ranked]
    labels = [f"brand product {code}" for code in classes]
    return query_labels, dict(zip(items, labels, strict=True)), rankings


SIZES = (0.03, 0.42, 0.34, 0.13, 0.06, 0.02)
"""Share of queries with 1, 2, 3, 4, 5 and 7 labels, as in the test list."""


def plain_loops(
    rankings: Mapping[str, Sequence[str]],
    query_labels: Mapping[str, tuple[str, ...]],
    gallery_label: Mapping[str, str],
) -> dict[tuple[int, str], float]:
    """The official definition, query by query, positives searched in a list (released code)."""
    items_of: dict[str, list[str]] = {}
    for item, label in gallery_label.items():
        items_of.setdefault(label, []).append(item)
    sums: defaultdict[tuple[int, str], float] = defaultdict(float)
    for depth in DEPTHS:
        for query, ranking in rankings.items():
            asked = query_labels[query]
            positives = [item for label in asked for item in items_of[label]]
            cut = min(depth, len(positives), len(ranking))
            hits, gain = 0, 0.0
            for rank in range(cut):
                if ranking[rank] in positives:
                    hits += 1
                    gain += hits / (rank + 1)
            sums[depth, "mAP"] += gain / hits if hits else 0.0
            sums[depth, "Prec"] += sum(ranking[rank] in positives for rank in range(cut)) / cut
            occurrences = Counter(asked)
            labels = Counter(gallery_label[item] for item in ranking[:depth])
            for label, count in occurrences.items():
                expected = min(count * (depth // len(asked)), len(items_of[label]))
                sums[depth, "mAR"] += min(labels[label], expected) / expected / len(occurrences)
    return {key: total / len(rankings) for key, total in sums.items()}


def timed(work: Callable[[], T], repeats: int = 1) -> tuple[float, T]:
    """Seconds of the fastest repeat, and the result."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - started)
    return min(seconds), result


if __name__ == "__main__":
    main()
