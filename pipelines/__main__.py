"""`python -m pipelines`: run the training pipeline here, or compile it for a cluster."""

import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipelines.dataset import check_dataset
from product1m.cli import Overrides, PresetName, new_app, set_up_logging
from product1m.config import load_config

app = new_app("The training pipeline: run it here, or compile it for a cluster.")


@app.callback()
def _main() -> None:
    set_up_logging("product1m", "pipelines")


@app.command(epilog="Example: `python -m pipelines run --dataset DIR --output build/mine`")
def run(
    dataset: Annotated[str, typer.Option(help="Folder with product lists and photos.")],
    output: Annotated[Path, typer.Option(help="Folder for everything the run writes.")],
    overrides: Overrides,
    preset: PresetName = "sample",
    backgrounds: Annotated[
        str, typer.Option(help="Folder of background photos; default: DATASET/backgrounds.")
    ] = "",
    cache: Annotated[bool, typer.Option(help="Answer unchanged steps from the cache.")] = True,
) -> None:
    """Run the pipeline on this machine: `kfp.local`, MLflow on SQLite unless a server is named."""
    config = load_config(preset, overrides)
    check_dataset(dataset)
    from pipelines.runner import LocalRun, run_training
    from pipelines.summary import show

    started = time.monotonic()
    try:
        summary = run_training(LocalRun(config, preset, dataset, output, backgrounds, cache))
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on from here", err=True)
        raise typer.Exit(130) from None
    show(summary, time.monotonic() - started)


@app.command(name="compile", epilog="Example: `python -m pipelines compile -o training.yaml`")
def compile_pipeline(
    output: Annotated[Path, typer.Option("--output", "-o", help="YAML file to write.")],
    overrides: Overrides,
    preset: PresetName = "reference",
    profile: Annotated[
        Literal["cpu-small", "gpu-1"] | None,
        typer.Option(help="What tasks ask of the cluster; nothing unless named."),
    ] = None,
) -> None:
    """Write the pipeline's IR, which `kfp.Client` or the KFP UI takes."""
    config = load_config(preset, overrides)
    from kfp import compiler

    from pipelines.training import training_pipeline

    output.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(training_pipeline(config, profile), str(output))
    print(output)


if __name__ == "__main__":
    app()
