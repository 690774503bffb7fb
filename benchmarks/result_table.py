"""Print the result tables of README and docs/results.md as Markdown, from the summaries of runs.

    python benchmarks/result_table.py build/sample/summary.json
    python benchmarks/result_table.py build/seed0/summary.json build/seed1/summary.json

For one run, the table has every metric at 10. For several runs, it has one column for each run,
with strict mAP@10 and the paired gain of the shipped ranking with its 95 % interval.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from product1m.evaluation.methods import SHIPPED, TITLES
from product1m.evaluation.statistics import METRICS, Interval


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("summaries", nargs="+", type=Path, help="summary.json of a run")
    paths = parser.parse_args().summaries
    runs = [json.loads(path.read_text("utf-8")) for path in paths]
    print(one_run(runs[0]) if len(runs) == 1 else several_runs(runs, paths))


def one_run(run: dict[str, Any]) -> str:
    """Table of strict metrics at 10, official mAP, and the gain of the shipped ranking."""
    header = [
        "test queries, per box unless stated",
        *(f"strict {measure}@10" for measure in METRICS),
        *("official mAP@10", "shipped − this, paired 95 %"),
    ]
    rows = []
    for method in measured(run):
        scores = run["metrics"]["test"][method]
        strict, official = scores["strict"]["10"], scores["official"]["10"]
        figures = [*(strict[measure] for measure in METRICS), official["mAP"]]
        rows.append([title(method), *(f"{figure:.3f}" for figure in figures), gain(run, method)])
    return table(header, rows)


def several_runs(runs: Sequence[dict[str, Any]], paths: Sequence[Path]) -> str:
    """Table of strict mAP@10 and the gain of the shipped ranking, one column for each run."""
    header = ["strict mAP@10, and shipped − this", *(path.parent.name for path in paths)]
    rows = []
    for method in measured(runs[0]):
        scores = [run["metrics"]["test"][method]["strict"]["10"]["mAP"] for run in runs]
        gains = [gain(run, method) for run in runs]
        cells = [
            f"{score:.3f}{f' ({more})' if more else ''}"
            for score, more in zip(scores, gains, strict=True)
        ]
        rows.append([title(method), *cells])
    return table(header, rows)


def title(method: str) -> str:
    """The title of a method, with the name of the shipped method in bold."""
    words = TITLES[method]
    return words.replace(method, f"**{method}**", 1) if method == SHIPPED else words


def measured(run: dict[str, Any]) -> list[str]:
    return [method for method in TITLES if method in run["metrics"]["test"]]


def gain(run: dict[str, Any], method: str) -> str:
    """Gain of the shipped ranking over a method, with its interval; empty for itself."""
    if method not in run["differences"]:
        return ""
    return Interval(**run["differences"][method]).signed


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
