"""Mean average precision at 10 of ranx and torchmetrics on random rankings.

    python -m venv build/metric-packages
    build/metric-packages/bin/pip install ranx torchmetrics
    build/metric-packages/bin/python benchmarks/metric_packages.py

Neither is a dependency of this project, so they get an environment of their own, and
`tests/evaluation/test_metrics_against_packages.py` holds the values that this prints.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from ranx import Qrels, Run, evaluate
from torchmetrics.retrieval import RetrievalMAP

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.support.oracles.random_rankings import SIZES, Lists, random_lists

DEPTH = 10


def main() -> None:
    versions = {name: version(name) for name in ("ranx", "torchmetrics")}
    means = {}
    for kind in SIZES:
        lists = random_lists(kind)
        means[kind] = {"ranx": with_ranx(lists), "torchmetrics": with_torch(lists)}
    print(json.dumps({"versions": versions, **means}, indent=2))


def with_ranx(lists: Lists) -> float:
    """`map@10`: the sum of precisions at hits over the number of relevant items."""
    queries, gallery, rankings = lists
    relevant = {
        query: {item: 1 for item, label in gallery.items() if label in labels}
        for query, labels in queries.items()
    }
    run = {
        query: {item: float(len(ranking) - rank) for rank, item in enumerate(ranking)}
        for query, ranking in rankings.items()
    }
    return float(evaluate(Qrels(relevant), Run(run), f"map@{DEPTH}"))


def with_torch(lists: Lists) -> float:
    """`RetrievalMAP(top_k=10)`: the sum of precisions at hits over the number of hits."""
    queries, gallery, rankings = lists
    scores, hits, numbers = [], [], []
    for number, (query, ranking) in enumerate(rankings.items()):
        scores += [float(len(ranking) - rank) for rank in range(len(ranking))]
        hits += [gallery[item] in queries[query] for item in ranking]
        numbers += [number] * len(ranking)
    metric = RetrievalMAP(top_k=DEPTH)
    return float(metric(torch.tensor(scores), torch.tensor(hits), torch.tensor(numbers)))


if __name__ == "__main__":
    main()
