"""The command `compile`: the pipeline as YAML for a cluster."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipelines.cli.options import Cached, ProfileName, WorkVolume
from product1m.cli.next_steps import say_next
from product1m.cli.options import Overrides, PresetName
from product1m.config import load_config

EPILOG = (
    "Examples: `python -m pipelines compile -o training.yaml`, "
    "`python -m pipelines compile --format manifests --namespace product1m -o versions.yaml`"
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
    namespace: Annotated[str, typer.Option(help="Namespace of the manifests.")] = "",
) -> None:
    """Write the pipeline for a cluster: its pipeline spec and platform spec."""
    load_config(preset, overrides)
    from pipelines.graph.package import Variant, package

    compiled = package(Variant(preset, profile, cache, work_volume, tuple(overrides)))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(compiled.text if format == "ir" else compiled.manifests(namespace), "utf-8")
    print(f"{output}: version {compiled.version}")
    ready = "kubectl apply -f" if format == "manifests" else "upload in the KFP UI:"
    say_next(
        f"{ready} {output}; or `python -m pipelines submit --preset {preset} --dataset s3://…`"
    )
