"""`python -m pipelines runs`: list runs, say where one stopped and why, read logs, go on."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import Endpoint, Namespace
from pipelines.cli.run import run_and_show
from product1m.cli.options import new_app
from product1m.errors import PipelineError

if TYPE_CHECKING:
    from pipelines.cluster.api import Cluster

runs_app = new_app("Runs on this machine (by their output folder) or on a cluster (by their id).")

Which = Annotated[str, typer.Argument(help="Output folder of a local run, or id of a cluster's.")]
RunId = Annotated[str, typer.Argument(help="Id of a cluster's run.")]
Follow = Annotated[bool, typer.Option(help="Stay until the run has ended.")]


@runs_app.command(
    "list",
    epilog="Examples: `python -m pipelines runs list`, `python -m pipelines runs list build`",
)
def list_(
    folder: Annotated[
        Path | None, typer.Argument(help="List the local runs below; else the cluster's.")
    ] = None,
    number: Annotated[int, typer.Option(help="At most so many.", min=1)] = 20,
    endpoint: Endpoint = "",
    namespace: Namespace = "",
) -> None:
    """List runs, newest first."""
    if folder:
        lines = iter(_local_lines(folder))
    else:
        from pipelines.cluster.api import Cluster

        lines = _lines(Cluster(endpoint, namespace))
    for line in islice(lines, number):
        print(line)


@runs_app.command(epilog="Example: `python -m pipelines runs show build/sample`")
def show(which: Which, endpoint: Endpoint = "", namespace: Namespace = "") -> None:
    """Say how a run went, and if it stopped: where, why, and what to do."""
    from pipelines.cluster.api import Cluster
    from pipelines.cluster.diagnosis import cluster_story, local_story, tell

    if _is_local(which):
        tell(local_story(Path(which)))
    else:
        tell(cluster_story(Cluster(endpoint, namespace), which))


@runs_app.command(epilog="Example: `python -m pipelines runs logs build/sample --task indexing`")
def logs(
    which: Which,
    task: Annotated[str, typer.Option(help="As `runs show` names it; all unless given.")] = "",
    endpoint: Endpoint = "",
    namespace: Namespace = "",
) -> None:
    """Print what a run's steps printed."""
    if _is_local(which):
        found = _local_logs(Path(which))
    else:
        from pipelines.cluster.api import Cluster

        found = _cluster_logs(Cluster(endpoint, namespace), which)
    names = [name for name, _ in found]
    if task and task not in names:
        raise PipelineError(f"{which}: no log of {task!r}; there is {', '.join(names) or 'none'}")
    for name, text in found:
        if task in ("", name):
            typer.echo(text if task else f"=== {name}\n{text}")


@runs_app.command(epilog="Example: `python -m pipelines runs resume build/sample`")
def resume(
    which: Which, follow: Follow = True, endpoint: Endpoint = "", namespace: Namespace = ""
) -> None:
    """Go on with a run that stopped: finished tasks are kept, failed ones run again."""
    if _is_local(which):
        _resume_here(Path(which))
        return
    from pipelines.cluster.api import Cluster

    cluster = Cluster(endpoint, namespace)
    run = cluster.call("reading the run", cluster.runs.run_service_get_run, which)
    if run.state not in ("FAILED", "CANCELED"):
        raise PipelineError(f"{which}: is {run.state}; only a failed or cancelled run goes on")
    cluster.call(f"resuming {which}", cluster.runs.run_service_retry_run, which)
    if follow:
        follow_to_the_end(cluster, which)


@runs_app.command("follow", epilog="Example: `python -m pipelines runs follow RUN_ID`")
def follow_run(run_id: RunId, endpoint: Endpoint = "", namespace: Namespace = "") -> None:
    """Follow a run to its end; the exit code is its state (see `submit`)."""
    from pipelines.cluster.api import Cluster

    follow_to_the_end(Cluster(endpoint, namespace), run_id)


@runs_app.command(epilog="Example: `python -m pipelines runs stop RUN_ID`")
def stop(run_id: RunId, endpoint: Endpoint = "", namespace: Namespace = "") -> None:
    """End a run on a cluster; `runs resume` takes it up again."""
    from pipelines.cluster.api import Cluster

    cluster = Cluster(endpoint, namespace)
    cluster.call(f"stopping {run_id}", cluster.runs.run_service_terminate_run, run_id)
    print(f"{run_id}: stopping")


def follow_to_the_end(cluster: "Cluster", run_id: str) -> None:
    """Follow, say why it failed if it did, and leave with the run's exit code."""
    from pipelines.cluster.diagnosis import cluster_story, tell
    from pipelines.cluster.follow import EXIT_CODES, EXIT_LOST, PACE, LostError, follow

    try:
        run = follow(cluster, run_id, PACE)
    except LostError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(EXIT_LOST) from None
    except KeyboardInterrupt:
        typer.echo(
            f"the run goes on; `python -m pipelines runs follow {run_id}` follows it again, "
            f"`runs stop {run_id}` ends it",
            err=True,
        )
        raise typer.Exit(130) from None
    tell(cluster_story(cluster, run_id))
    raise typer.Exit(EXIT_CODES[run.state])


def _is_local(which: str) -> bool:
    from pipelines.local.record import RECORD

    folder = Path(which)
    return folder.is_dir() or (folder / RECORD).exists() or "/" in which


def _lines(cluster: "Cluster") -> Iterator[str]:
    from pipelines.cluster.tasks import state_of

    for run in cluster.all_of(
        "listing runs",
        cluster.runs.run_service_list_runs,
        "runs",
        sort_by="created_at desc",
        **cluster.scope,
    ):
        started = f"{run.created_at:%Y-%m-%d %H:%M}"
        yield f"{run.run_id}  {started}  {state_of(run):<10} {run.display_name}"


def _local_lines(folder: Path) -> list[str]:
    from pipelines.local.record import RECORD, read_record

    records = [(path.parent, read_record(path.parent)) for path in folder.rglob(RECORD)]
    records.sort(key=lambda found: found[1].started, reverse=True)
    return [
        f"{where}  {one.started:%Y-%m-%d %H:%M}  {one.state:<11} {one.failed_step}".rstrip()
        for where, one in records
    ]


def _local_logs(folder: Path) -> list[tuple[str, str]]:
    from pipelines.local.record import read_record, task_logs

    found = task_logs(folder, read_record(folder).tasks)
    return [(name, "\n".join(log.lines)) for name, log in found.items()]


def _cluster_logs(cluster: "Cluster", run_id: str) -> list[tuple[str, str]]:
    """Of every task's last attempt."""
    from pipelines.cluster.pods import latest_pod, log_of, pods_of
    from pipelines.cluster.tasks import graph_of

    run = cluster.call("reading the run", cluster.runs.run_service_get_run, run_id)
    graph = graph_of(cluster, run)
    pods = pods_of(run_id, cluster.namespace)
    if not pods:
        raise PipelineError(f"{run_id}: its pods are gone; the KFP UI may have kept their logs")
    keys = dict.fromkeys([*graph, *(pod.task for pod in pods)])
    latest = {key: pod for key in keys if (pod := latest_pod(pods, key))}
    return [(graph.get(key, key), log_of(cluster, run_id, pod)) for key, pod in latest.items()]


def _resume_here(folder: Path) -> None:
    from pipelines.local.record import read_record
    from pipelines.local.run import request_of

    record = read_record(folder)
    if record.state == "RUNNING":
        raise PipelineError(f"{folder}: is still running, as process {record.pid}")
    run_and_show(request_of(record))
