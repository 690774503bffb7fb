"""`python -m pipelines check-cluster`: does everything that the documents promise work there?"""

import json
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.doctor import ServiceAccount
from pipelines.cli.options import Endpoint, Namespace, ProfileName
from product1m.cli.next_steps import say_next

EPILOG = "Example: `python -m pipelines check-cluster --dataset s3://product1m/sample`"


def check_cluster(
    dataset: Annotated[str, typer.Option(help="The sample split, as the pods read it: s3://…")],
    profile: ProfileName = "laptop",
    service_account: ServiceAccount = "product1m-runs",
    pipeline_root: Annotated[str, typer.Option(help="Where KFP stores artifacts: s3://…")] = "",
    output: Annotated[Path | None, typer.Option(help="File for the JSON.")] = None,
    endpoint: Endpoint = "",
    namespace: Namespace = "",
) -> None:
    """Run the conformance cases on a cluster, after an installation or an upgrade: about an hour.

    A whole run of the sample with little work, its digests compared with a run on this machine, a
    second run from the cache, a failure with its reason, stop and resume, a schedule and its limit
    of one run at a time. The cluster needs everything that `doctor` checks. Two candidate versions
    of a hardly trained model stay in the registry, and the runs in a KFP experiment of their own.
    Exit code: 0 all passed, 1 a case failed.
    """
    from pipelines.cluster.api import Cluster
    from pipelines.cluster.conformance.bench import LITTLE_WORK, Bench
    from pipelines.cluster.conformance.report import Result, as_json, run_cases
    from pipelines.cluster.submission import data_of
    from pipelines.graph.package import Variant

    bench = Bench(
        Cluster(endpoint, namespace),
        Variant("sample", profile, overrides=LITTLE_WORK),
        data_of(dataset, "", "", True),
        service_account,
        pipeline_root,
    )
    results: list[Result] = []
    for result in run_cases(bench):
        results.append(result)
        print(result.line())
    report = as_json(results, bench.cluster.endpoint)
    _write(json.dumps(report, indent=2), output)
    failed = "correct what failed (docs/cluster.md), and run the same command again"
    say_next("`python -m pipelines schedule apply`" if report["passed"] else failed)
    raise typer.Exit(0 if report["passed"] else 1)


def _write(report: str, output: Path | None) -> None:
    """Write the report to a file, or print it."""
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(f"{report}\n", "utf-8")
    else:
        print(report)
