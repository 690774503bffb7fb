"""Writes the result tables of README and docs from runs' summaries, as Markdown.

    python benchmarks/result_table.py build/sample/summary.json
    python benchmarks/result_table.py build/seed0/summary.json build/seed1/summary.json

Of one run every measure at 10; of several, a column each with strict mAP@10 and what the shipped
ranking gains, paired, with its 95 % interval.
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
    """Every measure at 10, strict; official mAP; the difference."""
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
    """Strict mAP@10 of every run, and the difference."""
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
    """The method in a few words; the name of the one that ships is bold."""
    words = TITLES[method]
    return words.replace(method, f"**{method}**", 1) if method == SHIPPED else words


def measured(run: dict[str, Any]) -> list[str]:
    return [method for method in TITLES if method in run["metrics"]["test"]]


def gain(run: dict[str, Any], method: str) -> str:
    """What the shipped ranking gains on a method, with its interval; nothing for itself."""
    if method not in run["differences"]:
        return ""
    return Interval(**run["differences"][method]).signed


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
