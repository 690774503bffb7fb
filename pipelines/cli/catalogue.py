"""The command `catalogue`: refresh what can be found, on this machine."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipelines.cli.options import Endpoint, MaxWait, Namespace, ProfileName
from pipelines.cli.run import exit_when_interrupted
from pipelines.cli.runs import follow_to_the_end
from pipelines.cli.submit import Experiment, Follow, Name, PipelineRoot, ServiceAccount, start
from product1m.cli.next_steps import say_next
from product1m.cli.options import Overrides, PresetName
from product1m.config import load_config
from product1m.registry.roles import CHAMPION_URI

EPILOG = "Example: `python -m pipelines catalogue --dataset shop --output build/catalogue`"
SUBMIT_EPILOG = "Example: `python -m pipelines submit-catalogue --dataset s3://product1m/shop`"
CATALOGUE_EXPERIMENT = "product1m-catalogue"
"""KFP experiment of refreshes."""

Model = Annotated[str, typer.Option(help="Promoted model: a registered one, or its folder.")]


def catalogue(
    dataset: Annotated[
        str, typer.Option(help="Folder or s3:// prefix with a gallery list and photos.")
    ],
    output: Annotated[Path, typer.Option(help="Folder for everything the run writes.")],
    overrides: Overrides,
    preset: PresetName = "reference",
    model: Model = CHAMPION_URI,
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
    say_next("`product1m serve`, and open http://localhost:8000")


def submit_catalogue(
    dataset: Annotated[str, typer.Option(help="Gallery list and photos, as the pod reads them.")],
    overrides: Overrides,
    preset: PresetName = "reference",
    profile: ProfileName = None,
    model: Model = CHAMPION_URI,
    experiment: Experiment = CATALOGUE_EXPERIMENT,
    name: Name = "",
    service_account: ServiceAccount = "",
    pipeline_root: PipelineRoot = "",
    follow: Follow = True,
    max_wait: MaxWait = 30.0,
    endpoint: Endpoint = "",
    namespace: Namespace = "",
) -> None:
    """Refresh the catalogue on a cluster, and follow the run to its end.

    Its pod has an account of its own, which may move `live` and nothing else.
    """
    from pipelines.cluster.api import Cluster
    from pipelines.cluster.submission import RunRequest
    from pipelines.graph.package import Variant

    variant = Variant(preset, profile, overrides=tuple(overrides), kind="catalogue")
    parameters = {"dataset_uri": dataset, "model": model, **variant.run_parameters()}
    request = RunRequest(parameters, experiment, name, service_account, pipeline_root)
    cluster = Cluster(endpoint, namespace)
    run_id = start(cluster, variant, request)
    if follow:
        follow_to_the_end(cluster, run_id, max_wait)
    print(f"the run continues; follow it with `python -m pipelines runs follow {run_id}`")
