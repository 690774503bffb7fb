"""The command `ablate`."""

import re
from pathlib import Path
from typing import Annotated

import typer

from pipelines.ablation.grids import GRID_NAMES, make_grid
from pipelines.cli.run import exit_when_interrupted
from product1m.cli.next_steps import say_next
from product1m.cli.options import Overrides, PresetName
from product1m.config import load_config
from product1m.errors import ConfigError

EPILOG = (
    "Example: `python -m pipelines ablate --grid pretext --dataset DIR --output build/sample "
    "--seeds 0,1,2 --cells without-contrast,without-input-skip`"
)

NOT_COMPARED = ("evaluation.encode_crops=false", "evaluation.num_timed_queries=1")
"""An ablation uses neither crops nor latency, which take most of an evaluation's time."""


GridName = Annotated[str, typer.Option(help=f"One of {', '.join(GRID_NAMES)}.")]
DatasetUri = Annotated[str, typer.Option(help="Folder with product lists and photos.")]
Output = Annotated[
    Path,
    typer.Option(help="Folder for all results; in the folder of a plain run its steps are reused."),
]
Seeds = Annotated[str, typer.Option(help="Seeds of pretraining; every cell runs once per seed.")]
Cells = Annotated[
    str, typer.Option(help="Some cells of the grid; the full model always runs; default: all.")
]
Backgrounds = Annotated[
    str, typer.Option(help="Folder of background photos; default: DATASET/backgrounds.")
]
PagePath = Annotated[
    Path | None, typer.Option(help="Markdown page in which to replace the results of this grid.")
]


def ablate(
    grid: GridName,
    dataset: DatasetUri,
    output: Output,
    overrides: Overrides,
    preset: PresetName = "sample",
    seeds: Seeds = "0,1,2",
    cells: Cells = "",
    backgrounds: Backgrounds = "",
    page: PagePath = None,
) -> None:
    """Leave out parts of the method, one at a time, and measure what each is worth.

    Every cell of a grid is the training pipeline up to the evaluation with a few keys changed.
    Unchanged steps come from the cache, finished cells do not run again, nothing is registered.
    """
    config = load_config(preset, [*NOT_COMPARED, *overrides])
    chosen = make_grid(grid, config, _words(cells))
    numbers = parse_seeds(seeds)
    from pipelines.graph.data import check_dataset

    check_dataset(dataset)
    from pipelines.ablation.graph import run_in_graph
    from pipelines.ablation.running import PLOT, Ablation, result_folder, run_ablation
    from pipelines.ablation.showing import show, update_page

    ablation = Ablation(chosen, config, preset, dataset, output, numbers, backgrounds)
    with exit_when_interrupted():
        results = run_ablation(ablation, run_in_graph)
    show(results)
    folder = result_folder(output, chosen)
    typer.echo(f"tables and plot: {folder}")
    if page:
        update_page(page, results, folder / PLOT)
    say_next(f"open {(page or folder / PLOT).absolute()}")


def parse_seeds(text: str) -> tuple[int, ...]:
    """Parse whole numbers separated by commas or spaces; ConfigError for others and repeats."""
    words = _words(text)
    if not words or not all(word.isdecimal() for word in words) or len(set(words)) < len(words):
        raise ConfigError(
            f"--seeds {text!r}: expected different whole numbers separated by commas, as in 0,1,2"
        )
    return tuple(int(word) for word in words)


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[,\s]+", text) if word]
