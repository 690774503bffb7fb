"""The report's curves and forest plot as PNG files; method names only, so no font is needed."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from product1m.retrieval.report.content import ReportContent
from product1m.retrieval.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOREST, PRECISION, RECALL, FUSION = "differences.png", "precision.png", "recall.png", "fusion.png"
_MARKERS = "osD^vP*Xp<>h"
_DPI = 150


def write_plots(content: ReportContent, folder: Path) -> list[Path]:
    """Draw the plots the content allows into `folder`; the paths written."""
    figures = {
        FOREST: forest_plot(content.differences, content.shipped),
        PRECISION: curve_plot(content.curves, "precision", content.shipped),
        RECALL: curve_plot(content.curves, "recall", content.shipped),
    }
    if content.trials is not None and len(content.trials):
        figures[FUSION] = fusion_plot(content.trials, content.fusion)
    paths = []
    for name, figure in figures.items():
        # No date and no version in the file: same numbers, same digest.
        figure.savefig(folder / name, dpi=_DPI, metadata={"Software": None})
        paths.append(folder / name)
    return paths


def forest_plot(differences: Mapping[str, Interval], shipped: str) -> "Figure":
    """Paired differences with their intervals, one method a row."""
    figure = _figure(6.4, 1.2 + 0.32 * len(differences))
    axes = figure.add_subplot()
    for row, interval in enumerate(differences.values()):
        axes.plot([interval.low, interval.high], [row, row], color="#1f4e79", linewidth=2)
        axes.plot(interval.mean, row, "o", color="#1f4e79")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(differences)), list(differences))
    axes.invert_yaxis()
    axes.set_xlabel(f"strict mAP@10 of {shipped} minus the method's")
    axes.grid(axis="x", alpha=0.3)
    return figure


def curve_plot(curves: pd.DataFrame, column: str, shipped: str) -> "Figure":
    """Mean precision or recall by ranking depth, one line a method."""
    figure = _figure(6.4, 4.6)
    axes = figure.add_subplot()
    for number, (method, curve) in enumerate(curves.groupby("method", sort=False)):
        axes.plot(
            curve["depth"],
            curve[column],
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=4,
            linestyle="-" if number < 10 else "--",  # matplotlib repeats its colours after ten
            linewidth=2.5 if method == shipped else 1.2,
            label=str(method),
        )
    depths = sorted(curves["depth"].unique())
    axes.set_xscale("log")
    axes.set_xticks(depths, [str(depth) for depth in depths], rotation=90 if len(depths) > 8 else 0)
    axes.minorticks_off()
    axes.set_xlabel("ranking depth N")
    axes.set_ylabel(f"strict {column} at N, mean over queries")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, ncols=2)
    return figure


def fusion_plot(trials: pd.DataFrame, fusion: Mapping[str, float]) -> "Figure":
    """For every block and weight, the best dev score of the fusions that give it that weight."""
    figure = _figure(6.4, 3.6)
    axes = figure.add_subplot()
    for number, (block, chosen) in enumerate(fusion.items()):
        best = trials.groupby(block)["dev_map"].max()
        marker = _MARKERS[number % len(_MARKERS)]
        axes.plot(best.index, best.to_numpy(), marker=marker, label=f"{block} (chosen {chosen:g})")
    axes.set_xlabel("weight of the block")
    axes.set_ylabel("best dev strict mAP@10")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def _figure(width_in: float, height_in: float) -> "Figure":
    # The object interface: no pyplot, so no global state and no display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
