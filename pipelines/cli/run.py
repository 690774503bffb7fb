"""The command `run`: the pipeline on this machine."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipelines.cli.options import Cached, StartFrom
from product1m.cli.next_steps import say_next
from product1m.cli.options import Overrides, PresetName
from product1m.config import load_config
from product1m.registry.roles import CHAMPION_URI

if TYPE_CHECKING:
    from pipelines.local.run import LocalRun

EPILOG = "Example: `python -m pipelines run --dataset DIR --output build/mine`"
When = Annotated[
    Literal["changed", "drifted", "always"],
    typer.Option(
        help="`changed`: the steps that changed data require; `always`: all of them; `drifted`: "
        "refresh the catalogue, and train only if it has moved too far from the champion."
    ),
]
Model = Annotated[str, typer.Option(help="With --when drifted: the promoted model.")]


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
    when: When = "changed",
    model: Model = CHAMPION_URI,
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

    use_cache = cache and when != "always"
    request = LocalRun(config, preset, dataset, output, backgrounds, use_cache, runner)
    if when == "drifted":
        drift = refreshed_drift(request, model)
        if drift and not drift["drifted"]:
            typer.echo("not drifted: only the catalogue was refreshed; product1m serve follows it")
            say_next(f"--when changed retrains all the same; figures: {output / 'drift.json'}")
            return
        request = replace(request, drift=drift)
    run_and_show(request)


def refreshed_drift(request: "LocalRun", model: str) -> dict[str, float]:
    """Refresh the catalogue with the champion, and print and return how far it drifted.

    Empty if nothing was promoted yet: then there is nothing to drift from.
    """
    from pipelines.local.drift import refresh_and_measure

    with exit_when_interrupted():
        signs, figures = refresh_and_measure(request, model)
    if not figures:
        typer.echo(f"{model}: there is no such model yet, so this run trains one")
    for sign in signs:
        word = "drifted" if sign["drifted"] else "as before"
        typer.echo(f"{sign['name']:<20} {sign['value']:8.3f}  limit {sign['limit']:g}  {word}")
    return figures


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
