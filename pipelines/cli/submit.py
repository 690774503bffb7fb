"""`python -m pipelines submit`: a run on a cluster, followed to its end."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli.options import (
    Cached,
    Endpoint,
    MaxGpuHours,
    MaxMinutes,
    MaxWait,
    Namespace,
    ProfileName,
    RatesFolder,
    StartFrom,
    WorkVolume,
)
from pipelines.cli.plan import Limits, check_price
from pipelines.cli.runs import follow_to_the_end
from product1m.cli.options import Overrides, PresetName
from product1m.registry.roles import EXPERIMENT

if TYPE_CHECKING:
    from pipelines.cluster.api import Cluster
    from pipelines.cluster.submission import RunRequest
    from pipelines.graph.package import Variant


Dataset = Annotated[str, typer.Option(help="Lists and photos, as the pods read them: s3://…")]
Backgrounds = Annotated[str, typer.Option(help="Background photos; default: drawn ones.")]
DatasetDigest = Annotated[
    str,
    typer.Option(
        help="A name for the state of the data; the cache is valid for one name. Default: "
        "computed from the data, which must be readable from here."
    ),
]
Experiment = Annotated[str, typer.Option(help="KFP experiment; created if missing.")]
Name = Annotated[str, typer.Option(help="Name of the run; default: data set, preset and time.")]
ServiceAccount = Annotated[str, typer.Option(help="Service account of the pods.")]
PipelineRoot = Annotated[str, typer.Option(help="Where KFP stores artifacts: s3://…")]
Rerun = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TASK",
        help="Run this task although the cache has its result, as `feature_extraction/train`; "
        "tasks that depend on it run too. Can be repeated.",
    ),
]
Follow = Annotated[bool, typer.Option(help="Wait until the run has ended.")]


def submit(
    dataset: Dataset,
    overrides: Overrides,
    preset: PresetName = "reference",
    profile: ProfileName = None,
    backgrounds: Backgrounds = "",
    dataset_digest: DatasetDigest = "",
    experiment: Experiment = EXPERIMENT,
    name: Name = "",
    service_account: ServiceAccount = "",
    pipeline_root: PipelineRoot = "",
    cache: Cached = True,
    rerun: Rerun = None,
    start_from: StartFrom = "",
    work_volume: WorkVolume = "",
    follow: Follow = True,
    max_wait: MaxWait = 30.0,
    rates: RatesFolder = None,
    max_minutes: MaxMinutes = None,
    max_gpu_hours: MaxGpuHours = None,
    endpoint: Endpoint = "",
    namespace: Namespace = "",
) -> None:
    """Show what a run will cost, upload this checkout's pipeline if it is new, start and follow it.

    Exit code: 0 succeeded, 1 failed, 3 stopped or skipped, 4 server stopped answering, 5 pod waits.
    """
    from pipelines.cluster.api import Cluster
    from pipelines.cluster.submission import RunRequest

    variant = _variant(preset, profile, cache, work_volume, overrides, start_from, rerun)
    data = _data(variant, dataset, backgrounds, dataset_digest)
    limits = Limits(rates, max_minutes, max_gpu_hours)
    check_price(variant, dataset, limits, is_readable=cache and not dataset_digest)
    request = RunRequest(data, experiment, name, service_account, pipeline_root)
    run_id = start(cluster := Cluster(endpoint, namespace), variant, request)
    if follow:
        follow_to_the_end(cluster, run_id, max_wait)
    print(f"the run continues; follow it with `python -m pipelines runs follow {run_id}`")


def _variant(
    preset: PresetName,
    profile: ProfileName,
    cache: bool,
    work_volume: str,
    overrides: Overrides,
    start_from: str,
    rerun: list[str] | None,
) -> "Variant":
    """The pipeline's variant, with both trainings from the named model if there is one."""
    from pipelines.graph.package import Variant
    from pipelines.local.start import with_start

    changes = with_start(preset, overrides, start_from, on_cluster=True)
    return Variant(preset, profile, cache, work_volume, tuple(changes), tuple(rerun or ()))


def _data(variant: "Variant", dataset: str, backgrounds: str, digest: str) -> dict[str, Any]:
    """The run's parameters; the data is checked if it is read here."""
    from pipelines.cluster.submission import data_of
    from pipelines.graph.preflight import check_data

    parameters = variant.run_parameters()
    data = data_of(dataset, backgrounds, digest, variant.cache)
    if variant.cache and not digest:
        check_data(variant.configuration(), dataset, backgrounds)
    return {**data, **parameters}


def start(cluster: "Cluster", variant: "Variant", request: "RunRequest") -> str:
    """Start a run of the variant's version, and print where it is; the run's id."""
    from pipelines.cluster.open_runs import end_open_runs
    from pipelines.cluster.submission import ensure_version, run_name, start_run
    from pipelines.graph.package import package

    for message in end_open_runs(cluster):
        typer.echo(message, err=True)
    version = ensure_version(cluster, package(variant.for_run()))
    what = variant.preset if variant.kind == "training" else variant.kind
    name = request.name or run_name(request.parameters["dataset_uri"], what)
    run = start_run(cluster, version, replace(request, name=name))
    print(
        f"run      {run.run_id}\nversion  {version.name}\nUI       {cluster.run_page(run.run_id)}"
    )
    return str(run.run_id)
