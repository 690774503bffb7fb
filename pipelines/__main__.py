"""`python -m pipelines`: the training pipeline, run here or on a cluster."""

import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipelines.cli import ablate as ablation_cli
from pipelines.cli import images as image_build
from pipelines.cli.options import Cached, ProfileName, WorkVolume
from pipelines.cli.runs import runs_app
from pipelines.cli.schedule import schedule_app
from pipelines.cli.submit import submit
from pipelines.graph.data import check_dataset
from product1m.cli.app import Overrides, PresetName, new_app
from product1m.config import load_config
from product1m.telemetry.logs import set_up_logging

app = new_app("The training pipeline: run it here, or on a cluster, now or on schedule.")


@app.callback()
def _main() -> None:
    set_up_logging("product1m", "pipelines")


@app.command(epilog="Example: `python -m pipelines run --dataset DIR --output build/mine`")
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
    runner: Annotated[
        Literal["subprocess", "docker"],
        typer.Option(help="Where a step works; see `images build`."),
    ] = "subprocess",
) -> None:
    """Run the pipeline on this machine: `kfp.local`, MLflow on SQLite unless a server is named."""
    config = load_config(preset, overrides)
    check_dataset(dataset)
    from pipelines.local.run import LocalRun, run_training
    from pipelines.local.summary import show

    started = time.monotonic()
    try:
        summary = run_training(
            LocalRun(config, preset, dataset, output, backgrounds, cache, runner)
        )
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on from here", err=True)
        raise typer.Exit(130) from None
    show(summary, time.monotonic() - started)


@app.command(
    name="compile",
    epilog="Examples: `python -m pipelines compile -o training.yaml`, "
    "`python -m pipelines compile --format manifests --namespace product1m -o versions.yaml`",
)
def compile_pipeline(
    output: Annotated[Path, typer.Option("--output", "-o", help="YAML file to write.")],
    overrides: Overrides,
    preset: PresetName = "reference",
    profile: ProfileName = None,
    cache: Cached = True,
    work_volume: WorkVolume = "",
    format: Annotated[
        Literal["ir", "manifests"],
        typer.Option(help="`ir` for the KFP UI and API, `manifests` for `kubectl apply`."),
    ] = "ir",
    namespace: Annotated[str, typer.Option(help="Of the manifests.")] = "",
) -> None:
    """Write the pipeline for a cluster, pipeline spec and platform spec."""
    load_config(preset, overrides)
    from pipelines.graph.package import Variant, package

    made = package(Variant(preset, profile, cache, work_volume, tuple(overrides)))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(made.text if format == "ir" else made.manifests(namespace), "utf-8")
    print(f"{output}: version {made.version}")


app.command(epilog=ablation_cli.EPILOG)(ablation_cli.ablate)
app.command(
    epilog="Example: `python -m pipelines submit --dataset s3://product1m/lists --no-cache`"
)(submit)
app.add_typer(schedule_app, name="schedule")
app.add_typer(runs_app, name="runs")
app.add_typer(image_build.app, name="images")


if __name__ == "__main__":
    app()
