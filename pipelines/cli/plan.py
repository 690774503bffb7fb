"""`python -m pipelines plan`: what a run will cost, before it starts."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import BUILD, MaxGpuHours, MaxMinutes, ProfileName, RatesFolder
from product1m.cli.options import Overrides, PresetName
from product1m.config import STEPS, Config, load_config
from product1m.errors import PipelineError

if TYPE_CHECKING:
    from pipelines.graph.package import Variant
    from pipelines.local.price import Price, Rates

EPILOG = "Example: `python -m pipelines plan --dataset DIR --output build/mine --max-minutes 60`"


def plan(
    dataset: Annotated[
        str, typer.Option(help="Folder or s3:// prefix with product lists and photos.")
    ],
    overrides: Overrides,
    preset: PresetName = "sample",
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder of an earlier run here, whose results are reused; default: none."
        ),
    ] = None,
    backgrounds: Annotated[
        str, typer.Option(help="Background photos; default: DATASET/backgrounds.")
    ] = "",
    profile: ProfileName = None,
    rates: RatesFolder = None,
    max_minutes: MaxMinutes = None,
    max_gpu_hours: MaxGpuHours = None,
) -> None:
    """Show which steps a run would run, and their minutes, GPU hours and bytes.

    The estimate comes from the rates of an earlier run. Exit code 1: the run exceeds a limit.
    """
    config = load_config(preset, overrides)
    from pipelines.local.price import price, sizes_of

    earlier = output if output and output.is_dir() else None
    measured = chosen_rates(rates or earlier, preset)
    runs = _tasks_that_run(config, dataset, backgrounds, earlier, measured)
    expected = price(
        config, sizes_of(dataset, config.background_synthesis), measured, runs, profile
    )
    show_price(expected)
    expected.check(max_minutes, max_gpu_hours)
    command = ["submit" if profile else "run", "--preset", preset, "--dataset", dataset]
    command += ["--profile", profile] if profile else ["--output", str(output or "build/mine")]
    command += ["--backgrounds", backgrounds] if backgrounds else []
    command += [part for setting in overrides or () for part in ("--set", setting)]
    typer.echo(f"next         `python -m pipelines {shlex.join(command)}`")


def _tasks_that_run(
    config: Config, dataset: str, backgrounds: str, output: Path | None, measured: "Rates"
) -> set[str]:
    """All tasks, or those that the cache of the measured run does not know."""
    from pipelines.graph.data import data_parameters, with_state
    from pipelines.graph.training import training_pipeline
    from pipelines.local.code import step_digest
    from pipelines.local.kfp_local import dependencies
    from pipelines.local.price import runs_again

    after = dependencies(training_pipeline(config))
    if output is None or output.resolve() != measured.folder.resolve():
        return set(after)
    state = with_state(data_parameters(dataset, backgrounds))
    code = {step: step_digest(step) for step in STEPS}
    return runs_again(config, state, code, measured, after)


@dataclass(frozen=True)
class Limits:
    """What a run may cost, and the earlier run whose rates count."""

    rates: Path | None = None
    max_minutes: float | None = None
    max_gpu_hours: float | None = None

    @property
    def are_set(self) -> bool:
        """Whether a run may be refused."""
        return self.max_minutes is not None or self.max_gpu_hours is not None


def check_price(variant: "Variant", dataset: str, limits: Limits, *, is_readable: bool) -> None:
    """Show what a run on a cluster will cost at most, and refuse it if that is too much.

    Where no rates are known, or the data cannot be read from here, only a set limit is an error.
    """
    from pipelines.graph.resources import default_profile
    from pipelines.local.price import price, sizes_of

    if not (is_readable or limits.are_set):
        typer.echo("price        unknown: the data are not read from here")
        return
    try:
        measured = chosen_rates(limits.rates, variant.preset)
    except PipelineError as error:
        if limits.are_set or limits.rates:
            raise
        typer.echo(f"price        unknown: {error}")
        return
    config = variant.configuration()
    sizes = sizes_of(dataset, config.background_synthesis)
    runs = set(measured.summary.steps)
    profile = variant.profile or default_profile(variant.preset)
    expected = price(config, sizes, measured, runs, profile)
    show_price(expected)
    expected.check(limits.max_minutes, limits.max_gpu_hours)


def chosen_rates(folder: Path | None, preset: str) -> "Rates":
    """The rates of a named folder, or of the newest run of the preset below `build`."""
    from pipelines.local.price import newest_rates, read_rates

    if folder:
        return read_rates(folder)
    rates = newest_rates(BUILD, preset)
    if rates is None:
        raise PipelineError(
            f"no earlier run of preset {preset} below {BUILD.resolve()}, so no rates are known; "
            "name the output folder of a run with --rates, for example of `make sample`"
        )
    return rates


def show_price(price: "Price") -> None:
    """Print a table of the tasks, the sums, and where the rates come from."""
    from rich.console import Console
    from rich.table import Table

    from pipelines.local.summary import WIDTH

    table = Table(box=None, pad_edge=False)
    table.add_column("task")
    for name in ("minutes", "GPU hours", "MB written"):
        table.add_column(name, justify="right")
    for task in price.tasks:
        numbers = (
            f"{task.seconds / 60:.1f}",
            f"{task.gpu_hours:.1f}",
            f"{task.num_bytes / 1e6:.0f}",
        )
        table.add_row(task.task, *(numbers if task.runs else ("cached", "", "")))
    totals = (f"{price.minutes:.1f}", f"{price.gpu_hours:.1f}", f"{price.num_bytes / 1e6:.0f}")
    table.add_row("at most", *totals, style="bold")
    console = Console()
    (console if console.is_terminal else Console(width=WIDTH)).print(table)
    typer.echo(f"rates        measured by the run in {price.rates}")
