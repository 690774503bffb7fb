"""Options that several commands of `python -m pipelines` take."""

from pathlib import Path
from typing import Annotated, Literal

import typer

SCHEDULES = Path(__file__).parent.parent.parent / "manifests" / "schedules.yaml"

Cached = Annotated[
    bool, typer.Option("--cache/--no-cache", help="Answer unchanged steps from the cache.")
]
ProfileName = Annotated[
    Literal["cpu-small", "gpu-1", "gpu-8"] | None,
    typer.Option(help="What tasks ask of the cluster; what the preset needs unless named."),
]
WorkVolume = Annotated[
    str,
    typer.Option(
        metavar="CLAIM", help="Volume that keeps checkpoints between attempts of a training step."
    ),
]
Endpoint = Annotated[
    str,
    typer.Option(
        envvar="KF_PIPELINES_ENDPOINT",
        help="URL of the pipeline API; the cluster this runs in or the kubeconfig's otherwise.",
    ),
]
Namespace = Annotated[
    str,
    typer.Option(
        envvar="KF_PIPELINES_NAMESPACE",
        help="The user's namespace, where the installation has several users.",
    ),
]
