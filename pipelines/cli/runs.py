"""`python -m pipelines runs`: list runs, show where one stopped and why, read logs, resume."""

import dataclasses
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import BUILD, Endpoint, MaxWait, Namespace
from pipelines.cli.run import run_and_show
from product1m.cli.next_steps import say_next
from product1m.cli.options import new_app
from product1m.errors import PipelineError

if TYPE_CHECKING:
    from pipelines.cluster.api import Cluster

runs_app = new_app(
    "Runs on this machine (named by their output folder) or on a cluster (named by their id)."
)

Which = Annotated[
    str, typer.Argument(help="Output folder of a local run, or id of a run on a cluster.")
]
RunId = Annotated[str, typer.Argument(help="Id of a run on a cluster.")]
Follow = Annotated[bool, typer.Option(help="Wait until the run has ended.")]


@runs_app.command(
    "list",
    epilog="Examples: `python -m pipelines runs list`, `python -m pipelines runs list build`",
)
def list_(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="List the local runs below this folder; default: the cluster's runs, or without a "
            "cluster those below `build`."
        ),
    ] = None,
    number: Annotated[int, typer.Option(help="Maximum number of runs to list.", min=1)] = 20,
    endpoint: Endpoint = "",
    namespace: Namespace = "",
) -> None:
    """List runs, newest first."""
    from pipelines.cluster.api import Cluster, is_cluster_named

    if folder is None and not is_cluster_named(endpoint):
        folder = BUILD
        typer.echo(f"no cluster is named: runs below {BUILD.resolve()}", err=True)
    lines = iter(_local_lines(folder)) if folder else _lines(Cluster(endpoint, namespace))
    shown = list(islice(lines, number))
    for line in shown:
        print(line)
    which = shown[0].split()[0] if shown else ""
    advice = f"runs show {which}" if shown else "run --dataset DIR --output build/mine"
    say_next(f"`python -m pipelines {advice}`")


@runs_app.command(
    epilog="Examples: `python -m pipelines runs show build/sample`, "
    "`python -m pipelines runs show RUN_ID`"
)
def show(which: Which, endpoint: Endpoint = "", namespace: Namespace = "") -> None:
    """Show how a run went; if it stopped, where, why and what to do."""
    from pipelines.cli.story_text import print_story

    if _is_local(which):
        from pipelines.local.story import local_story

        print_story(local_story(Path(which)))
    else:
        from pipelines.cluster.api import Cluster
        from pipelines.cluster.diagnosis import cluster_story
        from pipelines.cluster.open_runs import end_open_runs

        cluster = Cluster(endpoint, namespace)
        print_story(cluster_story(cluster, which))
        _print_notes(end_open_runs(cluster, which))


@runs_app.command(
    epilog="Examples: `python -m pipelines runs logs build/sample --task indexing`, "
    "`python -m pipelines runs logs RUN_ID --task rpn_training`"
)
def logs(
    which: Which,
    task: Annotated[
        str, typer.Option(help="Name of a task as in `runs show`; default: all tasks.")
    ] = "",
    endpoint: Endpoint = "",
    namespace: Namespace = "",
) -> None:
    """Print what the steps of a run printed."""
    if _is_local(which):
        texts = _local_logs(Path(which))
    else:
        from pipelines.cluster.api import Cluster
        from pipelines.cluster.run_logs import logs_of

        texts = logs_of(Cluster(endpoint, namespace), which, task)
    names = [name for name, _ in texts]
    if task and task not in names:
        raise PipelineError(
            f"{which}: no log of {task!r}; there are logs of {', '.join(names) or 'no task'}"
        )
    for name, text in texts:
        if task in ("", name):
            typer.echo(text if task else f"=== {name}\n{text}")
    say_next(f"`python -m pipelines runs show {which}` says how it went and what to do")


@runs_app.command(
    epilog="Examples: `python -m pipelines runs resume build/sample`, "
    "`python -m pipelines runs resume RUN_ID --no-follow`"
)
def resume(
    which: Which,
    follow: Follow = True,
    max_wait: MaxWait = 30.0,
    endpoint: Endpoint = "",
    namespace: Namespace = "",
) -> None:
    """Continue a run that stopped: finished tasks are kept, the others run."""
    if _is_local(which):
        _resume_here(Path(which))
        return
    from pipelines.cluster.api import Cluster
    from pipelines.cluster.tasks import run_state

    cluster = Cluster(endpoint, namespace)
    run = cluster.call("reading the run", cluster.runs.run_service_get_run, which)
    if run_state(run) not in ("FAILED", "CANCELED"):
        raise PipelineError(
            f"{which} is {run_state(run)}; only a failed or stopped run can be resumed"
        )
    cluster.call(f"resuming {which}", cluster.runs.run_service_retry_run, which)
    if follow:
        follow_to_the_end(cluster, which, max_wait, known_states=len(run.state_history or ()))
    print(f"{which}: resumed; `python -m pipelines runs follow {which}` follows it")


@runs_app.command("follow", epilog="Example: `python -m pipelines runs follow RUN_ID`")
def follow_run(
    run_id: RunId, max_wait: MaxWait = 30.0, endpoint: Endpoint = "", namespace: Namespace = ""
) -> None:
    """Follow a run until it ends; the exit code is its state (see `submit --help`)."""
    from pipelines.cluster.api import Cluster

    follow_to_the_end(Cluster(endpoint, namespace), run_id, max_wait)


@runs_app.command(epilog="Example: `python -m pipelines runs stop RUN_ID`")
def stop(run_id: RunId, endpoint: Endpoint = "", namespace: Namespace = "") -> None:
    """Stop a run on a cluster; `runs resume` continues it.

    With MLFLOW_TRACKING_URI set it also waits until the run has stopped, up to two minutes, and
    ends its MLflow runs, which a stopped pod cannot do.
    """
    from pipelines.cluster.api import Cluster
    from pipelines.cluster.follow import wait_for_end
    from pipelines.cluster.open_runs import end_open_runs
    from pipelines.cluster.outcome import URI_VARIABLE

    cluster = Cluster(endpoint, namespace)
    cluster.call(f"stopping {run_id}", cluster.runs.run_service_terminate_run, run_id)
    print(f"{run_id}: stopping; `python -m pipelines runs resume {run_id}` continues it later")
    if os.environ.get(URI_VARIABLE):
        if wait_for_end(cluster, run_id):
            _print_notes(end_open_runs(cluster, run_id))
        else:
            print(f"it has not stopped yet; `runs show {run_id}` ends its MLflow runs later")


def follow_to_the_end(
    cluster: "Cluster", run_id: str, max_wait: float, known_states: int = 0
) -> None:
    """Follow a run, print its story, and leave with the run's exit code."""
    from pipelines.cli.story_text import print_story
    from pipelines.cluster import follow as following
    from pipelines.cluster.diagnosis import cluster_story
    from pipelines.cluster.open_runs import end_open_runs
    from pipelines.cluster.tasks import run_state
    from pipelines.local.notifications import notify_end
    from pipelines.local.webhook import notify

    pace = dataclasses.replace(following.PACE, max_wait_s=60 * max_wait)
    try:
        run = following.follow(cluster, run_id, pace, known_states)
    except (following.LostError, following.StuckError) as error:
        typer.echo(f"error: {error}", err=True)
        notify(f":hourglass: run {run_id}: {error}\nNext: `python -m pipelines runs show {run_id}`")
        is_stuck = isinstance(error, following.StuckError)
        raise typer.Exit(following.EXIT_STUCK if is_stuck else following.EXIT_LOST) from None
    except KeyboardInterrupt:
        typer.echo(
            f"the run continues; `python -m pipelines runs follow {run_id}` follows it again, "
            f"`runs stop {run_id}` stops it",
            err=True,
        )
        raise typer.Exit(130) from None
    story = cluster_story(cluster, run_id)
    print_story(story)
    notify_end(story)
    _print_notes(end_open_runs(cluster, run_id))
    ended = following.EXIT_CODES[run_state(run)]  # somebody may have resumed it since
    raise typer.Exit(following.EXIT_CODES.get(story.state, ended))


def _print_notes(messages: list[str]) -> None:
    for message in messages:
        typer.echo(f"note         {message}")


def _is_local(which: str) -> bool:
    from pipelines.local.record import RECORD

    folder = Path(which)
    return folder.is_dir() or (folder / RECORD).exists() or "/" in which


def _lines(cluster: "Cluster") -> Iterator[str]:
    from pipelines.cluster.tasks import run_state

    for run in cluster.all_of(
        "listing runs",
        cluster.runs.run_service_list_runs,
        "runs",
        sort_by="created_at desc",
        **cluster.scope,
    ):
        started = f"{run.created_at:%Y-%m-%d %H:%M}"
        yield f"{run.run_id}  {started}  {run_state(run):<10} {run.display_name}"


def _local_lines(folder: Path) -> list[str]:
    from pipelines.local.record import RECORD, read_record

    records = [(path.parent, read_record(path.parent)) for path in folder.rglob(RECORD)]
    records.sort(key=lambda pair: pair[1].started, reverse=True)
    width = max((len(str(path)) for path, _ in records), default=0)
    return [
        f"{path!s:<{width}}  {record.started:%Y-%m-%d %H:%M}  {record.state:<11} "
        f"{record.failed_step}".rstrip()
        for path, record in records
    ]


def _local_logs(folder: Path) -> list[tuple[str, str]]:
    from pipelines.local.record import read_record, task_logs

    logs = task_logs(folder, read_record(folder).tasks)
    return [(name, "\n".join(log.lines)) for name, log in logs.items()]


def _resume_here(folder: Path) -> None:
    from pipelines.local.record import read_record
    from pipelines.local.run import request_of

    record = read_record(folder)
    if record.state == "RUNNING":
        raise PipelineError(f"{folder}: is still running, as process {record.pid}")
    if record.state == "SUCCEEDED":
        raise PipelineError(
            f"{folder}: the run succeeded, and only a failed or stopped run can be resumed; "
            "`python -m pipelines run` with the same options runs what has changed"
        )
    run_and_show(request_of(record))
