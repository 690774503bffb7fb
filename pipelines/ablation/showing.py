"""An ablation as a person sees it: tables on the terminal and in Markdown, a plot, a page."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.ablation.grids import FULL
from pipelines.ablation.results import Comparison, Row
from pipelines.local.summary import WIDTH
from product1m.errors import PipelineError
from product1m.evaluation.statistics import Interval

WORSE, BETTER, UNCLEAR = "#b3261e", "#1b6e3c", "#5f6368"
_MEASURES = {
    "shipped": "the ranking that ships",
    "joint": "the paper's embedding alone (`joint`)",
    "streams": "both streams alone (`streams`)",
}


def show(comparison: Comparison) -> None:
    """Print a table a measure, and what is not in it."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    for measure in comparison.measures:
        table = Table(title=f"{comparison.question}{_measured(comparison, measure)}")
        names = _columns(comparison)
        for name in names:
            words = name in ("cell", "what")
            table.add_column(name, justify="left" if words else "right", no_wrap=name != "what")
        for row in comparison.of(measure):
            cells = [escape(text) for text in _cells(row, comparison)]
            table.add_row(*cells, style="bold" if row.cell == FULL else None)
        if len(comparison.seeds) > 1:  # the names say enough where figures need the room
            del table.columns[names.index("what")]
        console.print(table)
    console.print(escape(_reading(comparison)), highlight=False)
    for cell, reason in comparison.left_out.items():
        console.print(f"left out: {cell}: {reason}", highlight=False, markup=False)


def markdown(comparison: Comparison, plot: str = "plot.png") -> str:
    """Tables, how to read them and a link to the plot."""
    names = _columns(comparison)
    parts = [_provenance(comparison)]
    for measure in comparison.measures:
        lines = [_line(names), _line(["---", "---", *["---:"] * (len(names) - 2)])]
        lines += [_line(_cells(row, comparison)) for row in comparison.of(measure)]
        named = _measured(comparison, measure).strip()
        parts += [*([f"{named}:"] if named else []), "\n".join(lines)]
    parts.append(_reading(comparison))
    parts += [f"Left out: `{cell}`: {reason}." for cell, reason in comparison.left_out.items()]
    parts.append(f"![{comparison.question}]({plot})")
    return "\n\n".join(parts) + "\n"


def update_page(page: Path, comparison: Comparison, plot: Path) -> None:
    """Put results between a page's markers for the grid, and the plot into `images/` beside it.

    Raises PipelineError if the page lacks the markers.
    """
    begin, end = f"<!-- results: {comparison.grid} -->", "<!-- end of results -->"
    pattern = re.compile(f"({re.escape(begin)}\n).*?({re.escape(end)})", re.DOTALL)
    text = page.read_text("utf-8")
    if not pattern.search(text):
        raise PipelineError(f"{page}: expected the lines {begin!r} and, after it, {end!r}")
    picture = page.parent / "images" / f"ablation-{comparison.grid}.png"
    picture.parent.mkdir(exist_ok=True)
    shutil.copyfile(plot, picture)
    results = markdown(comparison, f"images/{picture.name}")
    page.write_text(pattern.sub(lambda found: f"{found[1]}{results}{found[2]}", text), "utf-8")


def draw(comparison: Comparison, path: Path) -> None:
    """A dot with its interval a cell, small rings for the seeds, the full model as the line."""
    measures = comparison.measures
    num_cells = len(comparison.of(measures[0])) - 1
    size = (2.6 + 3.6 * len(measures), 2.2 + 0.42 * num_cells)
    figure = Figure(figsize=size, layout="constrained")
    columns = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    for axes, measure in zip(columns, measures, strict=True):
        _draw_cells(axes, comparison.of(measure)[1:][::-1])
        score = comparison.of(measure)[0].score.mean
        words = f"{_MEASURES[measure].replace('`', '')}\n" if len(measures) > 1 else ""
        axes.set_title(f"{words}line: full model, {score:.3f}", fontsize=9)
    figure.suptitle(comparison.question, fontsize=12)
    figure.supxlabel("strict mAP@10: cell − full model (left of the line: worse)", fontsize=10)
    figure.text(0.0, -0.01, _legend(comparison), fontsize=8, va="top")
    figure.savefig(path, dpi=120, bbox_inches="tight")


def _legend(comparison: Comparison) -> str:
    bar = f"Bar: paired {comparison.confidence:.0%} bootstrap interval over queries."
    if len(comparison.seeds) == 1:
        return f"{comparison.num_queries} test queries, seed {comparison.seeds[0]}. {bar}"
    seeds = ", ".join(map(str, comparison.seeds))
    return (
        f"{comparison.num_queries} test queries. Dot: mean of the seeds {seeds}. {bar} "
        "Rings: each seed."
    )


def _draw_cells(axes: Axes, cells: list[Row]) -> None:
    axes.axvline(0, color="black", linewidth=1.2)
    for place, row in enumerate(cells):
        color = _verdict(row.difference)
        axes.hlines(place, row.difference.low, row.difference.high, color=color, linewidth=2)
        axes.plot(row.difference.mean, place, "o", color=color, label=row.cell)
        seeds = list(row.difference_by_seed.values())
        if len(seeds) > 1:
            axes.plot(seeds, [place - 0.22] * len(seeds), "o", mfc="none", mec=color, ms=4)
    axes.set_yticks(range(len(cells)), [row.cell for row in cells])
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.margins(y=0.12)


def _verdict(difference: Interval) -> str:
    if difference.high < 0:
        return WORSE
    return BETTER if difference.low > 0 else UNCLEAR


def _measured(comparison: Comparison, measure: str) -> str:
    """Which ranking was looked at, where there are several."""
    return f" Measured on {_MEASURES[measure]}" if len(comparison.measures) > 1 else ""


def _columns(comparison: Comparison) -> list[str]:
    share = f"{comparison.confidence:.0%}"
    names = ["cell", "what", f"mAP@10 [{share}]", "seeds", f"− full [{share}]", "seeds"]
    return [name for name in names if name != "seeds" or len(comparison.seeds) > 1]


def _cells(row: Row, comparison: Comparison) -> list[str]:
    """A row's texts, one a column; the full model has no difference to itself."""
    score, gap = _interval(row.score, ""), _interval(row.difference, "+")
    scores, gaps = _range(row.by_seed, ""), _range(row.difference_by_seed, "+")
    if row.cell == FULL:
        gap = gaps = ""
    texts = [score, scores, gap, gaps] if len(comparison.seeds) > 1 else [score, gap]
    return [row.cell, row.meaning, *texts]


def _range(by_seed: Mapping[int, float], sign: str) -> str:
    return f"{min(by_seed.values()):{sign}.3f} … {max(by_seed.values()):{sign}.3f}"


def _interval(interval: Interval, sign: str) -> str:
    mean, low, high = (
        f"{value:{sign}.3f}" for value in (interval.mean, interval.low, interval.high)
    )
    return f"{mean} [{low}, {high}]"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _provenance(comparison: Comparison) -> str:
    data = Path(comparison.dataset["dataset_uri"]).name
    digest = comparison.dataset["dataset_digest"][:12]
    seeds = ", ".join(map(str, comparison.seeds))
    return (
        f"Preset `{comparison.preset}`, data set `{data}` (digest `{digest}`), "
        f"{comparison.num_queries} test queries, pretraining seeds {seeds}."
    )


def _reading(comparison: Comparison) -> str:
    share = f"{comparison.confidence:.0%}"
    many = len(comparison.seeds) > 1
    return (
        f"Strict mAP@10, {'mean over the seeds' if many else f'seed {comparison.seeds[0]}'}; in "
        f"brackets the {share} bootstrap interval over queries"
        f"{'; `seeds`: least and greatest single seed' if many else ''}. `− full`: cell − full "
        "model, paired by query and seed; below zero the cell is worse."
    )
