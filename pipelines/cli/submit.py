"""`python -m pipelines submit`: a run on a cluster, followed to its end."""

from typing import Annotated

import typer

from pipelines.cli.options import Cached, Endpoint, Namespace, ProfileName, WorkVolume
from product1m.cli.options import Overrides, PresetName
from product1m.config import load_config


def submit(
    dataset: Annotated[str, typer.Option(help="Lists and photos, as the pods see them: s3://…")],
    overrides: Overrides,
    preset: PresetName = "reference",
    profile: ProfileName = None,
    backgrounds: Annotated[str, typer.Option(help="Background photos; drawn ones if none.")] = "",
    dataset_digest: Annotated[
        str,
        typer.Option(
            help="A name for the state of the data, a changed one voids the cache; "
            "found out from here unless given."
        ),
    ] = "",
    experiment: Annotated[str, typer.Option(help="Made if it is not there.")] = "",
    name: Annotated[str, typer.Option(help="Of the run; the time unless given.")] = "",
    service_account: Annotated[str, typer.Option(help="That the pods run as.")] = "",
    pipeline_root: Annotated[str, typer.Option(help="Where artifacts go: s3://…")] = "",
    cache: Cached = True,
    work_volume: WorkVolume = "",
    follow: Annotated[bool, typer.Option(help="Stay until the run has ended.")] = True,
    endpoint: Endpoint = "",
    namespace: Namespace = "",
) -> None:
    """Upload this checkout's pipeline if it is new, start a run and follow it.

    Ends with 0 if the run succeeded, 1 if it failed, 3 if it was cancelled or skipped, 4 if the
    cluster could not be reached any more.
    """
    load_config(preset, overrides)
    from pipelines.cli.runs import follow_to_the_end
    from pipelines.cluster.api import Cluster
    from pipelines.cluster.submission import (
        RunRequest,
        data_of,
        ensure_version,
        start_run,
    )
    from pipelines.graph.package import Variant, package
    from product1m.registry.roles import EXPERIMENT

    data = data_of(dataset, backgrounds, dataset_digest, cache)
    variant = Variant(preset, profile, cache, work_volume, tuple(overrides))
    made = package(variant.of_run())
    cluster = Cluster(endpoint, namespace)
    request = RunRequest(
        {**data, **variant.run_parameters()},
        experiment or EXPERIMENT,
        name,
        service_account,
        pipeline_root,
    )
    version = ensure_version(cluster, made)
    run = start_run(cluster, version, request)
    print(
        f"run      {run.run_id}\nversion  {version.name}\nUI       {cluster.run_page(run.run_id)}"
    )
    if follow:
        follow_to_the_end(cluster, run.run_id)
    else:
        print(f"`python -m pipelines runs follow {run.run_id}` follows it")
