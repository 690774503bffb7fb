"""The command `run`: the pipeline on this machine."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipelines.cli.options import Cached, StartFrom
from product1m.cli.options import Overrides, PresetName
from product1m.config import load_config

if TYPE_CHECKING:
    from pipelines.local.run import LocalRun

EPILOG = "Example: `python -m pipelines run --dataset DIR --output build/mine`"


def run(
    dataset: Annotated[
        str, typer.Option(help="Folder or s3:// prefix with product lists and photos.")
    ],
    output: Annotated[Path, typer.Option(help="Folder for everything the run writes.")],
    overrides: Overrides,
    preset: PresetName = "sample",
    backgrounds: Annotated[
        str,
        typer.Option(
            help="Folder or s3:// prefix of background photos; default: DATASET/backgrounds."
        ),
    ] = "",
    cache: Cached = True,
    start_from: StartFrom = "",
    runner: Annotated[
        Literal["subprocess", "docker"],
        typer.Option(help="Run each step in a process or in its container (see `images build`)."),
    ] = "subprocess",
) -> None:
    """Run the pipeline on this machine, with MLflow on SQLite unless MLFLOW_TRACKING_URI is set."""
    from pipelines.graph.data import check_dataset
    from pipelines.local.start import with_start

    config = load_config(preset, with_start(preset, overrides, start_from))

    check_dataset(dataset)
    from pipelines.local.run import LocalRun

    run_and_show(LocalRun(config, preset, dataset, output, backgrounds, cache, runner))


def run_and_show(request: "LocalRun") -> None:
    """Run the pipeline and print its summary."""
    from pipelines.local.kfp_local import StepError
    from pipelines.local.notifications import notify_end
    from pipelines.local.run import run_training
    from pipelines.local.story import local_story
    from pipelines.local.summary import show

    started = time.monotonic()
    try:
        with exit_when_interrupted():
            summary = run_training(request)
    except StepError:
        notify_end(local_story(request.output))
        raise
    show(summary, time.monotonic() - started)
    notify_end(local_story(request.output))


@contextmanager
def exit_when_interrupted() -> Iterator[None]:
    """Turn Ctrl-C within the block into a message and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("interrupted; run the same command again to continue", err=True)
        raise typer.Exit(130) from None
