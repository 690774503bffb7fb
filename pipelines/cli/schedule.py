"""`python -m pipelines schedule`: make the cluster's schedules match a file."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import SCHEDULES, Endpoint, Namespace
from product1m.cli.next_steps import say_next
from product1m.cli.options import new_app
from product1m.errors import PipelineError

if TYPE_CHECKING:
    from pipelines.cluster.api import Cluster
    from pipelines.cluster.reconcile import Action
    from pipelines.cluster.schedules import Schedule, ScheduleFile
    from pipelines.graph.package import Package

schedule_app = new_app("Scheduled runs on a cluster, as described in `manifests/schedules.yaml`.")

File = Annotated[
    Path,
    typer.Option(
        "--file", help="File with the schedules.", show_default="manifests/schedules.yaml"
    ),
]
_MOMENT = "%a %Y-%m-%d %H:%M %Z"
Yes = Annotated[
    bool, typer.Option("--yes", help="Change the cluster; default: only show the plan.")
]
Wait = Annotated[
    float,
    typer.Option(
        metavar="MINUTES",
        min=0,
        help="How long to wait for runs of schedules that are replaced or deleted; the default "
        "leaves such a schedule for the next `apply`.",
    ),
]


@schedule_app.command(epilog="Example: `python -m pipelines schedule check`")
def check(file: File = SCHEDULES) -> None:
    """Check the file and explain what runs when; needs no cluster."""
    from pipelines.cluster.schedules import read_schedules

    content = read_schedules(file)
    for schedule in content.schedules:
        for line in _in_words(content, schedule.name):
            print(line)
    say_next("`python -m pipelines schedule apply` shows what it would change on the cluster")


@schedule_app.command(epilog="Example: `python -m pipelines schedule apply --yes`")
def apply(
    file: File = SCHEDULES,
    yes: Yes = False,
    wait: Wait = 0.0,
    endpoint: Endpoint = "",
    namespace: Namespace = "",
) -> None:
    """Show how file and cluster differ; with --yes, make the cluster match the file.

    A changed schedule is replaced, one that is not in the file is deleted. No run is ended: while a
    run is in flight, its schedule stays, and the next `apply` replaces or deletes it; with --wait,
    this `apply` waits for the run. So there are never more runs at once than a schedule allows.
    """
    from pipelines.cluster import reconcile
    from pipelines.cluster.api import Cluster
    from pipelines.cluster.schedule_changes import names_of
    from pipelines.cluster.schedules import read_schedules

    content = read_schedules(file)
    cluster = Cluster(endpoint, namespace)
    packages = _packages(content)
    existing = reconcile.ours(cluster)
    names = names_of(cluster, existing)
    actions = reconcile.plan(content.schedules, packages, existing, names)
    for action in actions:
        _show(action, content)
    if not any(action.changes for action in actions):
        print("nothing to do")
    elif not yes:
        print("nothing was changed; add --yes to apply the plan")
    else:
        _apply(cluster, actions, packages, 60 * wait)


@schedule_app.command("list", epilog="Example: `python -m pipelines schedule list`")
def list_(
    zone: Annotated[str, typer.Option(help="Time zone of the cluster's scheduler.")] = "UTC",
    endpoint: Endpoint = "",
    namespace: Namespace = "",
) -> None:
    """List the cluster's schedules: when and what they run, the last run, the last success."""
    from pipelines.cluster import reconcile
    from pipelines.cluster.api import Cluster
    from pipelines.cluster.schedules import in_words, next_times, time_zone
    from pipelines.cluster.tasks import run_state

    now = datetime.now(time_zone(zone))
    cluster = Cluster(endpoint, namespace)
    for recurring in sorted(
        reconcile.ours(cluster), key=lambda recurring: str(recurring.display_name)
    ):
        cron = recurring.trigger.cron_schedule.cron
        runs = reconcile.runs_of(cluster, recurring)
        last = f"{runs[0].run_id} {run_state(runs[0])}" if runs else "none yet"
        ends = [run.finished_at.astimezone(now.tzinfo) for run in runs if run.state == "SUCCEEDED"]
        coming = f"{next_times(cron, now, 1)[0]:{_MOMENT}}"
        print(
            f"{recurring.display_name}  {recurring.status}\n"
            f"  when      {in_words(cron)} ({cron})\n"
            f"  next      {coming if recurring.status == 'ENABLED' else 'switched off'}\n"
            f"  version   {recurring.pipeline_version_reference.pipeline_version_id}\n"
            f"  last run  {last}\n"
            f"  success   {f'{ends[0]:{_MOMENT}}' if ends else 'none yet'}"
        )
    say_next("`python -m pipelines schedule apply` compares them with the file")


@schedule_app.command(epilog="Example: `python -m pipelines schedule delete nightly-smoke --yes`")
def delete(
    names: Annotated[list[str], typer.Argument(help="Names of schedules.")],
    yes: Yes = False,
    endpoint: Endpoint = "",
    namespace: Namespace = "",
) -> None:
    """Delete schedules from the cluster; their runs stay and continue."""
    from pipelines.cluster import reconcile
    from pipelines.cluster.api import Cluster

    cluster = Cluster(endpoint, namespace)
    existing = reconcile.ours(cluster)
    known = sorted({recurring.display_name for recurring in existing})
    unknown = sorted(set(names) - set(known))
    if unknown:
        shown = ", ".join(known) or "none"
        raise PipelineError(f"no schedule {', '.join(unknown)}; the cluster has {shown}")
    actions = [
        reconcile.Action(
            "delete",
            name,
            retired=[recurring for recurring in existing if recurring.display_name == name],
        )
        for name in names
    ]
    for action in actions:
        print(f"delete {action.name}")
    if yes:
        _apply(cluster, actions, {})
    else:
        print("nothing was changed; add --yes to apply the plan")


def _packages(file: "ScheduleFile") -> "dict[str, Package]":
    """The compiled package of each schedule that names no version."""
    from pipelines.graph.package import package

    named = {schedule.name: schedule.variant for schedule in file.schedules if not schedule.version}
    made = {variant: package(variant) for variant in set(named.values())}
    return {name: made[variant] for name, variant in named.items()}


def _apply(
    cluster: "Cluster",
    actions: "list[Action]",
    packages: "dict[str, Package]",
    wait_s: float = 0.0,
) -> None:
    from pipelines.cluster import reconcile

    for action in actions:
        for left in reconcile.apply(cluster, action, packages.get(action.name), wait_s):
            print(left)
    print("done")
    say_next("`python -m pipelines schedule list`")


def _show(action: "Action", file: "ScheduleFile") -> None:
    reasons = f" ({'; '.join(action.reasons)})" if action.reasons else ""
    print(f"{action.kind:<8} {action.name}{reasons}")
    if action.wanted:
        for line in _in_words(file, action.name)[1:]:
            print(f"         {line.strip()}")
        print(f"         version {action.version}")


def _describe(schedule: "Schedule") -> str:
    if schedule.kind == "drift":
        return f"{schedule.preset} if the catalogue drifted from {schedule.model}"
    return f"catalogue of {schedule.model}" if schedule.kind == "catalogue" else schedule.preset


def _in_words(file: "ScheduleFile", name: str) -> list[str]:
    from pipelines.cluster.schedules import in_words, next_times

    schedule = next(entry for entry in file.schedules if entry.name == name)
    times = next_times(schedule.cron, datetime.now(file.zone))
    catch_up = "missed times are skipped" if schedule.no_catchup else "MISSED TIMES ARE RUN LATER"
    return [
        f"{schedule.name}{'' if schedule.enabled else ' (switched off)'}",
        f"  {in_words(schedule.cron)}, {file.timezone} ({schedule.cron})",
        f"  next: {', '.join(f'{time:{_MOMENT}}' for time in times)}",
        f"  {_describe(schedule)} on {schedule.dataset}, "
        f"maximum {schedule.max_concurrency} at once, {catch_up}",
    ]
