"""The command `catalogue`: refresh what can be found, on this machine."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipelines.cli.run import exit_when_interrupted
from product1m.cli.options import Overrides, PresetName
from product1m.config import load_config

EPILOG = "Example: `python -m pipelines catalogue --dataset shop --output build/catalogue`"


def catalogue(
    dataset: Annotated[
        str, typer.Option(help="Folder or s3:// prefix with a gallery list and photos.")
    ],
    output: Annotated[Path, typer.Option(help="Folder for everything the run writes.")],
    overrides: Overrides,
    preset: PresetName = "reference",
    model: Annotated[
        str, typer.Option(help="Promoted model: a registered one, or its folder.")
    ] = "models:/product1m@champion",
    runner: Annotated[
        Literal["subprocess", "docker"],
        typer.Option(help="Run the task in a process or in its container (see `images build`)."),
    ] = "subprocess",
) -> None:
    """Refresh the catalogue with a promoted model, and serve the new one if its checks pass."""
    config = load_config(preset, overrides)
    from pipelines.local.catalogue_run import CatalogueRun, run_catalogue

    with exit_when_interrupted():
        made = run_catalogue(CatalogueRun(config, dataset, model, output, runner))
    name = config.catalogue.catalogue_model
    for figure, value in made.metrics.items():
        typer.echo(f"{figure:<20} {value:.6g}")
    typer.echo(f"models:/{name}@live has this content; a running `product1m serve` follows it")
