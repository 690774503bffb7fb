"""The figures that a run ends with, here and on a cluster: shipped ranking and baselines."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.markup import escape
from rich.table import Table

from product1m.evaluation.detection_quality import FIGURES, MATCH_IOU, NEEDED, SHARES
from product1m.evaluation.methods import SHIPPED
from product1m.evaluation.statistics import METRICS, Interval

DEFINITIONS = ("strict", "official")
"""Definitions in the order of the columns."""
NUM_COLUMNS = 124
"""Width of a table with both definitions, in characters."""


@dataclass(frozen=True)
class Figures:
    """What the rankings reached on the test queries, for the first 10 answers."""

    scores: Mapping[str, Mapping[str, Mapping[str, float]]]
    """Method, definition, metric to value; unknown values are left out."""
    leads: Mapping[str, Mapping[str, float]]
    """Method to the gain of the shipped ranking over it, in strict mAP: mean, low, high."""
    detection: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Share of products found, of boxes that lie on a product, … to mean, low, high."""


def method_table(figures: Figures, width: int) -> Table:
    """One row per method; in less than `NUM_COLUMNS` characters without the official figures."""
    definitions = DEFINITIONS if width >= NUM_COLUMNS else DEFINITIONS[:1]
    table = Table(
        title="Test queries, first 10 answers; gain of the shipped ranking in strict mAP@10"
    )
    table.add_column("method", no_wrap=True)
    for definition in definitions:
        for name in METRICS:
            table.add_column(f"{definition}\n{name}", justify="right", no_wrap=True)
    table.add_column("shipped − method\n[95 %]", justify="right", no_wrap=True)
    for method, scores in figures.scores.items():
        values = [
            scores.get(definition, {}).get(name) for definition in definitions for name in METRICS
        ]
        gain = figures.leads.get(method)
        lead = Interval(**gain).signed if gain else ""
        table.add_row(
            method,
            *("" if value is None else f"{value:.3f}" for value in values),
            escape(lead),
            style="bold" if method == SHIPPED else None,
        )
    return table


def products_table(figures: Figures) -> Table:
    """Products found, and how many boxes lie on products."""
    table = Table(title=f"Test queries, products and boxes (IoU {MATCH_IOU})")
    table.add_column("share", no_wrap=True)
    table.add_column("value [95 %]", justify="right", no_wrap=True)
    table.add_column("meaning")
    for name in SHARES:
        known = figures.detection.get(name)
        value = "unknown" if known is None else str(Interval(**known))
        table.add_row(name, escape(value), FIGURES[name] if known else NEEDED)
    return table
