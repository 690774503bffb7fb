"""Show the results of an ablation: tables on the terminal and in Markdown, and a plot."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.ablation.cells import COUNTS
from pipelines.ablation.grids import FULL
from pipelines.ablation.results import AblationResults, CellScore
from pipelines.local.summary import WIDTH
from product1m.errors import PipelineError
from product1m.evaluation.methods import JOINT, JOINT_STREAMS, SHIPPED, STREAMS
from product1m.evaluation.statistics import Interval

WORSE, BETTER, UNCLEAR = "#b3261e", "#1b6e3c", "#5f6368"
_MEASURES = {
    SHIPPED: "the ranking that ships",
    JOINT: "the paper's embedding alone (`joint`)",
    JOINT_STREAMS: "the first author's embedding alone (`joint_streams`)",
    STREAMS: "both streams alone (`streams`)",
}
_READING_PRODUCTS = (
    " `found@1`: share of all products with a box whose first answer is right; `found@5`: "
    "with a right one among its first 5; –: without boxes nothing is shown for a product."
)


def show(results: AblationResults) -> None:
    """Print one table per measure, and the cells that are left out with their reason."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    for measure in results.measures:
        table = Table(title=f"{results.question}{_measured(results, measure)}")
        names = _columns(results)
        for name in names:
            words = name in ("cell", "what")
            table.add_column(name, justify="left" if words else "right", no_wrap=name != "what")
        for row in results.rows_for(measure):
            cells = [escape(text) for text in _cells(row, results)]
            table.add_row(*cells, style="bold" if row.cell == FULL else None)
        if len(results.seeds) > 1 or results.shows_products:  # these need the space
            del table.columns[names.index("what")]
        console.print(table)
    console.print(escape(_reading(results)), highlight=False)
    for cell, reason in results.left_out.items():
        console.print(f"left out: {cell}: {reason}", highlight=False, markup=False)


def markdown(results: AblationResults, plot: str = "plot.png") -> str:
    """Tables, a legend and a link to the plot, as Markdown."""
    names = _columns(results)
    parts = [_provenance(results)]
    for measure in results.measures:
        lines = [_line(names), _line(["---", "---", *["---:"] * (len(names) - 2)])]
        lines += [_line(_cells(row, results)) for row in results.rows_for(measure)]
        heading = _measured(results, measure).strip()
        parts += [*([f"{heading}:"] if heading else []), "\n".join(lines)]
    parts.append(_reading(results))
    parts += [f"Left out: `{cell}`: {reason}." for cell, reason in results.left_out.items()]
    parts.append(f"![{results.question}]({plot})")
    return "\n\n".join(parts) + "\n"


def update_page(page: Path, results: AblationResults, plot: Path) -> None:
    """Replace the grid's results between markers in a page; copy the plot to `images/` next to it.

    Raises PipelineError if the page lacks the markers.
    """
    begin, end = f"<!-- results: {results.grid} -->", "<!-- end of results -->"
    pattern = re.compile(f"({re.escape(begin)}\n).*?({re.escape(end)})", re.DOTALL)
    text = page.read_text("utf-8")
    if not pattern.search(text):
        raise PipelineError(
            f"{page}: expected the line {begin!r} and, below it, {end!r}; add both lines"
        )
    picture = page.parent / "images" / f"ablation-{results.grid}.png"
    picture.parent.mkdir(exist_ok=True)
    shutil.copyfile(plot, picture)
    tables = markdown(results, f"images/{picture.name}")
    page.write_text(pattern.sub(lambda match: f"{match[1]}{tables}{match[2]}", text), "utf-8")


def draw(results: AblationResults, path: Path) -> None:
    """Plot each cell's difference and interval; rings are seeds, the line is the full model."""
    measures = results.measures
    shown = [row.cell for row in results.rows_for(measures[0])[:0:-1]]
    size = (2.6 + 3.6 * len(measures), 2.2 + 0.42 * len(shown))
    figure = Figure(figsize=size, layout="constrained")
    columns = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    for axes, measure in zip(columns, measures, strict=True):
        _draw_cells(axes, results.rows_for(measure)[1:], shown)
        score = results.rows_for(measure)[0].score.mean
        words = f"{_MEASURES[measure].replace('`', '')}\n" if len(measures) > 1 else ""
        axes.set_title(f"{words}line: full model, {score:.3f}", fontsize=9)
    figure.suptitle(results.question, fontsize=12)
    figure.supxlabel("strict mAP@10: cell − full model (left of the line: worse)", fontsize=10)
    figure.text(0.0, -0.01, _legend(results), fontsize=8, va="top")
    figure.savefig(path, dpi=120, bbox_inches="tight")


def _legend(results: AblationResults) -> str:
    bar = f"Bar: paired {results.confidence:.0%} bootstrap interval over queries."
    if len(results.seeds) == 1:
        return f"{results.num_queries} test queries, seed {results.seeds[0]}. {bar}"
    seeds = ", ".join(map(str, results.seeds))
    return (
        f"{results.num_queries} test queries. Dot: mean of the seeds {seeds}. {bar} "
        "Rings: each seed."
    )


def _draw_cells(axes: Axes, cells: list[CellScore], shown: list[str]) -> None:
    """Draw cells at the places of their names in `shown`, from the bottom."""
    axes.axvline(0, color="black", linewidth=1.2)
    for row in cells:
        place = shown.index(row.cell)
        color = _color(row.difference)
        axes.hlines(place, row.difference.low, row.difference.high, color=color, linewidth=2)
        axes.plot(row.difference.mean, place, "o", color=color, label=row.cell)
        seeds = list(row.difference_by_seed.values())
        if len(seeds) > 1:
            axes.plot(seeds, [place - 0.22] * len(seeds), "o", mfc="none", mec=color, ms=4)
    axes.set_yticks(range(len(shown)), shown)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.margins(y=0.12)


def _color(difference: Interval) -> str:
    if difference.high < 0:
        return WORSE
    return BETTER if difference.low > 0 else UNCLEAR


def _measured(results: AblationResults, measure: str) -> str:
    """The measured ranking in words; empty if the grid has only one."""
    return f" Measured on {_MEASURES[measure]}" if len(results.measures) > 1 else ""


def _columns(results: AblationResults) -> list[str]:
    share = f"{results.confidence:.0%}"
    names = ["cell", "what", f"mAP@10 [{share}]", "seeds", f"− full [{share}]", "seeds"]
    names += [count.replace("products_", "") for count in COUNTS if results.shows_products]
    return [name for name in names if name != "seeds" or len(results.seeds) > 1]


def _cells(row: CellScore, results: AblationResults) -> list[str]:
    """Texts of a row, one per column; the full model shows no difference."""
    score, gap = str(row.score), row.difference.signed
    scores, gaps = _range(row.by_seed, ""), _range(row.difference_by_seed, "+")
    if row.cell == FULL:
        gap = gaps = ""
    texts = [score, scores, gap, gaps] if len(results.seeds) > 1 else [score, gap]
    if results.shows_products:
        texts += [str(row.products.get(count, "–")) for count in COUNTS]
    return [row.cell, row.meaning, *texts]


def _range(by_seed: Mapping[int, float], sign: str) -> str:
    return f"{min(by_seed.values()):{sign}.3f} … {max(by_seed.values()):{sign}.3f}"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _provenance(results: AblationResults) -> str:
    data = Path(results.dataset["dataset_uri"]).name
    digest = results.dataset["dataset_digest"][:12]
    word = "seed" if len(results.seeds) == 1 else "seeds"
    seeds = f"{word} {', '.join(map(str, results.seeds))}"
    return (
        f"Preset `{results.preset}`, data set `{data}` (digest `{digest}`), "
        f"{results.num_queries} test queries, pretraining {seeds}."
    )


def _reading(results: AblationResults) -> str:
    share = f"{results.confidence:.0%}"
    many = len(results.seeds) > 1
    return (
        f"Strict mAP@10, {'mean over the seeds' if many else f'seed {results.seeds[0]}'}; in "
        f"brackets the {share} bootstrap interval over queries"
        f"{'; `seeds`: lowest and highest single seed' if many else ''}. `− full`: cell − full "
        "model, paired by query and seed; below zero the cell is worse."
        + (_READING_PRODUCTS if results.shows_products else "")
    )
