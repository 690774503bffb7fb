"""`python -m pipelines doctor`: would a run work on this cluster?"""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import SCHEDULES, Endpoint, Namespace, ProfileName, WorkVolume
from product1m.cli.next_steps import say_next

if TYPE_CHECKING:
    from pipelines.cluster.doctor.cluster_reader import Wanted
    from pipelines.cluster.doctor.finding import Finding

EPILOG = "Examples: `python -m pipelines doctor`, `python -m pipelines doctor --probe --json`"
ServiceAccount = Annotated[str, typer.Option(help="Service account of the pods.")]
Bucket = Annotated[str, typer.Option(help="S3 bucket of runs, for the probe.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def doctor(
    profile: ProfileName = None,
    num_nodes: Annotated[int, typer.Option(help="Nodes that train together.", min=1)] = 1,
    service_account: ServiceAccount = "product1m-runs",
    work_volume: WorkVolume = "",
    probe: Annotated[
        bool,
        typer.Option("--probe", help="Also start two short pods that try images, MLflow and S3."),
    ] = False,
    bucket: Bucket = "product1m",
    as_json: AsJson = False,
    endpoint: Endpoint = "",
    namespace: Namespace = "",
) -> None:
    """Look at a cluster before the first run and after an upgrade; only --probe changes anything.

    Every line says what was seen; where something is missing also what is needed and what to do.
    Exit code: 0 a run can work, 1 it could not.
    """
    from pipelines.cluster.doctor.cluster_reader import Wanted
    from pipelines.cluster.pods import DEFAULT_NAMESPACE
    from pipelines.cluster.schedules import read_schedules

    wanted = Wanted(
        namespace or DEFAULT_NAMESPACE,
        service_account,
        profile or "laptop",
        num_nodes,
        work_volume,
        timezone=read_schedules(SCHEDULES).timezone,
    )
    _report(wanted, endpoint, namespace, bucket if probe else "", as_json)


def _report(wanted: "Wanted", endpoint: str, namespace: str, bucket: str, as_json: bool) -> None:
    """Print every finding as it comes, or all of them as JSON; probe if a bucket is named."""
    from components.images import locked_images
    from pipelines.cluster.doctor.cluster_reader import ClusterReader
    from pipelines.cluster.doctor.examine import examine, pipeline_api
    from pipelines.cluster.doctor.finding import as_rows, exit_code
    from pipelines.cluster.doctor.probe import Probe, probe

    def checks() -> Iterator["Finding"]:
        yield pipeline_api(endpoint, namespace)
        reader = ClusterReader(wanted)
        yield from examine(reader)
        if bucket:
            yield from probe(reader, Probe(locked_images(), bucket))

    findings = []
    for finding in checks():
        findings.append(finding)
        if not as_json:
            print(finding.line(), flush=True)
    code = exit_code(findings)
    if as_json:
        print(json.dumps({"works": not code, "findings": as_rows(findings)}, indent=2))
    else:
        print("a run could NOT work here" if code else "nothing found that would stop a run")
        wrong = "do what the lines above name, and run `python -m pipelines doctor` again"
        say_next(wrong if code else "`python -m pipelines submit --dataset s3://… --preset sample`")
    raise typer.Exit(code)
