"""Options that several commands of `python -m pipelines` take."""

from pathlib import Path
from typing import Annotated, Literal

import typer

BUILD = Path("build")
"""Where runs on this machine are looked for."""
SCHEDULES = Path(__file__).parent.parent.parent / "manifests" / "schedules.yaml"

Cached = Annotated[
    bool, typer.Option("--cache/--no-cache", help="Reuse the results of unchanged steps.")
]
ProfileName = Annotated[
    Literal["laptop", "cpu-small", "gpu-1", "gpu-8"] | None,
    typer.Option(help="Size of the tasks' pods; default: the smallest that the preset fits into."),
]
WorkVolume = Annotated[
    str,
    typer.Option(
        metavar="CLAIM",
        help="Volume claim that keeps checkpoints between attempts of a training step.",
    ),
]
StartFrom = Annotated[
    str,
    typer.Option(
        "--from",
        metavar="MODEL",
        help="Start both trainings from a model's weights, with fewer passes: `champion`, "
        "`MODEL/VERSION`, or a folder: a model's, or the output of a run on this machine.",
    ),
]
Endpoint = Annotated[
    str,
    typer.Option(
        envvar="KF_PIPELINES_ENDPOINT",
        help="URL of the pipeline API; default: this cluster's, or the one of the kubeconfig.",
    ),
]
Namespace = Annotated[
    str,
    typer.Option(
        envvar="KF_PIPELINES_NAMESPACE",
        help="Your namespace, on an installation with several users.",
    ),
]
RatesFolder = Annotated[
    Path | None,
    typer.Option(
        "--rates",
        metavar="DIR",
        help="Output folder of an earlier run on this machine, whose measured rates are used; "
        "default: the newest of the preset below `build`.",
    ),
]
MaxMinutes = Annotated[
    float | None,
    typer.Option(metavar="MINUTES", min=0, help="Refuse a run that would take longer."),
]
MaxGpuHours = Annotated[
    float | None,
    typer.Option(metavar="HOURS", min=0, help="Refuse a run that would take more GPU hours."),
]
MaxWait = Annotated[
    float,
    typer.Option(
        metavar="MINUTES",
        min=0,
        help="Stop following with exit code 5 when a pod has been unable to start for this long; "
        "0 waits forever.",
    ),
]
