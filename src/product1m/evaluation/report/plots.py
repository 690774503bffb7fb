"""The report's plots as PNG files. They contain only method names, which need no special font."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from product1m.evaluation.fusion import Surface
from product1m.evaluation.methods import ENDS_OF_SCALE, WHOLE_PHOTO, between_the_ends
from product1m.evaluation.report.content import ReportContent
from product1m.evaluation.statistics import MAIN_METRIC, Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOREST, PRECISION, RECALL, FUSION = "differences.png", "precision.png", "recall.png", "fusion.png"
SURFACE = "fusion_surface.png"
RELIABILITY = "reliability.png"
_MARKERS = "osD^vP*Xp<>h"
_DPI = 150


def write_plots(content: ReportContent, folder: Path) -> list[Path]:
    """Draw all plots for which there is data into `folder`; returns their paths."""
    figures = {
        FOREST: forest_plot(content.differences, content.shipped),
        PRECISION: curve_plot(content.curves, "precision", content.shipped),
        RECALL: curve_plot(content.curves, "recall", content.shipped),
    }
    if content.trials is not None and len(content.trials):
        figures[FUSION] = fusion_plot(content.trials, content.fusion)
    if content.surface is not None:
        figures[SURFACE] = surface_plot(content.surface, content.fusion)
    if content.match is not None:
        figures[RELIABILITY] = reliability_plot(content.match.reliability)
    paths = []
    for name, figure in figures.items():
        # No date and no version in the file, so that equal numbers give an equal digest.
        figure.savefig(folder / name, dpi=_DPI, metadata={"Software": None})
        paths.append(folder / name)
    return paths


def forest_plot(differences: Mapping[str, Interval], shipped: str) -> "Figure":
    """Paired differences with their intervals, one method per row."""
    rivals = between_the_ends(differences)
    figure = _figure(6.4, 1.2 + 0.32 * len(rivals))
    axes = figure.add_subplot()
    for row, interval in enumerate(rivals.values()):
        axes.plot([interval.low, interval.high], [row, row], color="#1f4e79", linewidth=2)
        axes.plot(interval.mean, row, "o", color="#1f4e79")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rivals)), list(rivals))
    axes.invert_yaxis()
    axes.set_xlabel(f"{MAIN_METRIC} of {shipped} minus the method's")
    axes.grid(axis="x", alpha=0.3)
    return figure


def curve_plot(curves: pd.DataFrame, column: str, shipped: str) -> "Figure":
    """Mean precision or average recall by ranking depth, one line per method, intervals shaded.

    The whole-photo ranking of a method has the same color and is dashed; the scale's ends are gray.
    """
    figure = _figure(5.6, 6.2)
    axes = figure.add_subplot()
    bases: list[str] = []
    for method, curve in curves.groupby("method", sort=False):
        base = str(method).removesuffix(WHOLE_PHOTO)
        bases += [] if base in bases or base in ENDS_OF_SCALE else [base]
        number = bases.index(base) if base in bases else 7  # the eighth color is gray
        color = f"C{number % 10}"
        low, high = (f"{column}_{end}" for end in ("low", "high"))
        axes.fill_between(curve["depth"], curve[low], curve[high], color=color, alpha=0.15, lw=0)
        axes.plot(
            curve["depth"],
            curve[column],
            color=color,
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=4,
            linestyle="--" if str(method).endswith(WHOLE_PHOTO) else "-",
            linewidth=3 if method == shipped else 1.2,
            label=str(method),
        )
    depths = sorted(curves["depth"].unique())
    axes.set_xscale("log")
    axes.set_xticks(depths, [str(depth) for depth in depths])
    axes.minorticks_off()
    axes.set_xlabel("ranking depth N")
    axes.set_ylabel(f"strict {'AR' if column == 'recall' else column} at N, mean over queries")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize=9, ncols=2, frameon=False)
    return figure


def fusion_plot(trials: pd.DataFrame, fusion: Mapping[str, float]) -> "Figure":
    """For every block and weight, the best dev score of all trials that give it that weight."""
    figure = _figure(5.6, 4.4)
    axes = figure.add_subplot()
    for number, (block, chosen) in enumerate(fusion.items()):
        best = trials.groupby(block)["dev_map"].max()
        marker = _MARKERS[number % len(_MARKERS)]
        axes.plot(best.index, best.to_numpy(), marker=marker, label=f"{block} (chosen {chosen:g})")
    axes.set_xlabel("weight of the block")
    axes.set_ylabel(f"best dev {MAIN_METRIC}")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize=9, ncols=2, frameon=False)
    return figure


def surface_plot(surface: Surface, fusion: Mapping[str, float]) -> "Figure":
    """The dev score by the weights of two blocks, with a mark at the chosen point."""
    figure = _figure(5.6, 4.4)
    axes = figure.add_subplot()
    step = float(surface.values[1] - surface.values[0]) / 2
    ends = (surface.values[0] - step, surface.values[-1] + step)
    # The corner without any weight would take up most of the color range.
    lowest = float(np.nanquantile(surface.dev_map, 0.1))
    shown = axes.imshow(
        surface.dev_map, vmin=lowest, origin="lower", extent=(*ends, *ends), aspect="auto"
    )
    axes.contour(surface.values, surface.values, surface.dev_map, colors="white", linewidths=0.6)
    chosen = fusion[surface.x_block], fusion[surface.y_block]
    axes.plot(*chosen, "X", color="white", markeredgecolor="black", markersize=12)
    axes.set_xlabel(f"weight of {surface.x_block}")
    axes.set_ylabel(f"weight of {surface.y_block}")
    figure.colorbar(shown, label=f"dev {MAIN_METRIC}", extend="min")
    return figure


def reliability_plot(reliability: pd.DataFrame) -> "Figure":
    """Share of right answers by match score, one point per bin, larger with more answers."""
    figure = _figure(5.6, 4.4)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="gray", linestyle="--", linewidth=0.8)
    axes.plot(reliability["score"], reliability["right"], color="#1f4e79", linewidth=1)
    sizes = 20 + 600 * reliability["answers"]
    axes.scatter(reliability["score"], reliability["right"], s=sizes, color="#1f4e79", alpha=0.6)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("match score of the first answer")
    axes.set_ylabel("share of right answers")
    axes.grid(alpha=0.3)
    return figure


def _figure(width_in: float, height_in: float) -> "Figure":
    # The object interface: no pyplot, so no global state and no display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
