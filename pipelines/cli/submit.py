"""`python -m pipelines submit`: a run on a cluster, followed to its end."""

from typing import Annotated

import typer

from pipelines.cli.options import (
    Cached,
    Endpoint,
    MaxWait,
    Namespace,
    ProfileName,
    WorkVolume,
)
from product1m.cli.options import Overrides, PresetName
from product1m.config import load_config


def submit(
    dataset: Annotated[str, typer.Option(help="Lists and photos, as the pods read them: s3://…")],
    overrides: Overrides,
    preset: PresetName = "reference",
    profile: ProfileName = None,
    backgrounds: Annotated[str, typer.Option(help="Background photos; default: drawn ones.")] = "",
    dataset_digest: Annotated[
        str,
        typer.Option(
            help="A name for the state of the data; the cache is valid for one name. Default: "
            "computed from the data, which must be readable from here."
        ),
    ] = "",
    experiment: Annotated[str, typer.Option(help="KFP experiment; created if missing.")] = "",
    name: Annotated[str, typer.Option(help="Name of the run; default: the time.")] = "",
    service_account: Annotated[str, typer.Option(help="Service account of the pods.")] = "",
    pipeline_root: Annotated[str, typer.Option(help="Where KFP stores artifacts: s3://…")] = "",
    cache: Cached = True,
    rerun: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK",
            help="Run this task although the cache has its result, as `feature_extraction/train`; "
            "tasks that depend on it run too. Can be repeated.",
        ),
    ] = None,
    work_volume: WorkVolume = "",
    follow: Annotated[bool, typer.Option(help="Wait until the run has ended.")] = True,
    max_wait: MaxWait = 30.0,
    endpoint: Endpoint = "",
    namespace: Namespace = "",
) -> None:
    """Upload this checkout's pipeline if it is new, start a run and follow it.

    Exit code: 0 the run succeeded, 1 it failed, 3 it was stopped or skipped, 4 the cluster does not
    answer any more, 5 a pod cannot start.
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
    variant = Variant(preset, profile, cache, work_volume, tuple(overrides), tuple(rerun or ()))
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
        follow_to_the_end(cluster, str(run.run_id), max_wait)
    else:
        print(
            f"the run was started and continues on the cluster; "
            f"`python -m pipelines runs follow {run.run_id}` follows it"
        )
