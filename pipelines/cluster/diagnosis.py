"""Where a run stopped and why, told the same way of a local run and of a cluster's."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import kfp_server_api as api
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.cluster.api import Cluster, ClusterError
from pipelines.cluster.pods import Pod, latest_pod, log_of, pods_of
from pipelines.cluster.tasks import TaskState, failed_task, graph_of, state_of, task_states
from pipelines.local.kfp_local import LOG
from pipelines.local.record import read_record, task_logs

TAIL_LINES = 20
_RAISED = re.compile(r"(?:[A-Za-z_]\w*\.)*([A-Z]\w*(?:Error|Exception|Interrupt|Exit)): (.+)")


@dataclass
class Story:
    """What is known of a run."""

    title: str
    state: str
    tasks: list[TaskState]
    started: datetime | None = None
    ended: datetime | None = None
    failed: str = ""
    """Name of the task it stopped in."""
    why: list[str] = field(default_factory=list)
    """Reasons, the most telling first."""
    tail: list[str] = field(default_factory=list)
    """The last lines that task printed."""
    whole_log: str = ""
    advice: str = ""
    links: dict[str, str] = field(default_factory=dict)


def local_story(folder: Path) -> Story:
    """Of a run of `python -m pipelines run`; PipelineError if none was made in the folder."""
    folder = folder.resolve()
    record = read_record(folder)
    logs = task_logs(folder, record.tasks)
    states = [
        TaskState(key, name, logs[name].state if name in logs else "PENDING")
        for key, name in record.tasks.items()
    ]
    story = Story(str(folder), record.state, states, record.started, record.ended)
    story.links = {"MLflow": f"run {record.mlflow['run_id']} at {record.mlflow['tracking_uri']}"}
    report = folder / "summary.json"
    if record.state == "SUCCEEDED":
        story.links["summary"] = str(report)
        return story
    stopped = [state.name for state in states if state.state in ("FAILED", "RUNNING")]
    story.failed = record.failed_step or (stopped[-1] if stopped else "")
    story.why = [record.error] if record.error else []
    story.whole_log = str(folder / LOG)
    if story.failed in logs:
        story.tail = logs[story.failed].lines[-TAIL_LINES:]
    if record.state != "RUNNING":
        story.advice = (
            f"`python -m pipelines runs resume {folder}` goes on: finished steps come from the "
            "cache, training from its last checkpoint"
        )
    return story


def cluster_story(cluster: Cluster, run_id: str) -> Story:
    """Of a run on a cluster; what cannot be read is said and does not hide the rest."""
    run = cluster.call("reading the run", cluster.runs.run_service_get_run, run_id)
    states = task_states(run, graph_of(cluster, run))
    story = Story(f"{run.display_name} ({run_id})", state_of(run), states)
    story.started, story.ended = run.created_at, run.finished_at
    story.links = {"UI": cluster.run_page(run_id), **_plugins(run)}
    failed = failed_task(states)
    if run.state == "SUCCEEDED":
        return story
    try:
        pods = pods_of(run_id, cluster.namespace)
    except ClusterError as error:
        story.why.append(str(error))
        pods = []
    if failed is None and run.state in ("PENDING", "RUNNING"):
        story.why = [f"{pod.task}: {pod.reason}" for pod in pods if pod.reason] + story.why
        return story
    story.failed = failed.name if failed else ""
    reasons = [failed.error if failed else "", (run.error.message or "") if run.error else ""]
    pod = latest_pod(pods, failed.key) if failed else None
    if pod:
        reasons.append(f"pod {pod.name}: {pod.reason}" if pod.reason else "")
        reasons = [*_read_log(cluster, run_id, pod, story), *reasons]
    story.why = [*(reason for reason in reasons if reason), *story.why]
    story.advice = (
        f"`python -m pipelines runs resume {run_id}` runs the failed tasks again; after a change "
        "of code or configuration `submit` starts a run that takes finished tasks from the cache"
    )
    return story


def error_in(lines: Sequence[str]) -> str:
    """The last error a step's log tells, in JSON lines or at a traceback's end; empty if none."""
    for line in reversed(lines):
        if line.startswith("{"):
            try:
                told = json.loads(line)
            except ValueError:
                continue
            if isinstance(told, dict) and told.get("level") in ("ERROR", "CRITICAL"):
                return str(told.get("message", ""))
        elif match := _RAISED.match(line.strip()):
            return f"{match[1]}: {match[2]}"
    return ""


def tell(story: Story) -> None:
    """Print it: what, where, why, the last lines, what to do."""
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"[bold]{escape(story.title)}[/bold]  {_coloured(story.state)}{_times(story)}")
    table = Table(box=None, pad_edge=False)
    for name in ("task", "state", "seconds"):
        table.add_column(name, justify="right" if name == "seconds" else "left")
    for task in story.tasks:
        seconds = f"{task.seconds:.0f}" if task.seconds else ""
        table.add_row(task.name, _coloured(task.state), seconds)
    console.print(table)
    if story.failed:
        console.print(f"stopped in   [bold]{story.failed}[/bold]")
    for number, reason in enumerate(story.why):
        console.print(f"{'' if number else 'because':<12} {escape(reason)}")
    if story.tail:
        console.print(f"its last {len(story.tail)} lines:")
        for line in story.tail:
            console.print(f"  {line}", markup=False, style="dim")
    if story.whole_log:
        console.print(f"whole log    {escape(story.whole_log)}")
    for name, link in story.links.items():
        console.print(f"{name:<12} {escape(link)}")
    if story.advice:
        console.print(f"next         {escape(story.advice)}")


def _read_log(cluster: Cluster, run_id: str, pod: Pod, story: Story) -> list[str]:
    """Put the log's end into the story; the error it tells."""
    story.whole_log = (
        f"`python -m pipelines runs logs {run_id} --task {story.failed}`, or "
        f"`kubectl logs -n {pod.namespace} {pod.name} -c main`"
    )
    try:
        lines = log_of(cluster, run_id, pod).splitlines()
    except ClusterError as error:
        return [str(error)]
    story.tail = lines[-TAIL_LINES:]
    return [error_in(lines)]


def _plugins(run: api.V2beta1Run) -> dict[str, str]:
    """What KFP's plugins say of the run: MLflow's address and run."""
    return {
        f"{plugin} {name}": str(entry.value)
        for plugin, output in (run.plugins_output or {}).items()
        for name, entry in (output.entries or {}).items()
    }


def _times(story: Story) -> str:
    told = f", started {story.started:%Y-%m-%d %H:%M} UTC" if story.started else ""
    if story.started and story.ended:
        seconds = (story.ended - story.started).total_seconds()
        told += f", took {seconds:.0f} s"
    return told


def _coloured(state: str) -> str:
    colours = {"SUCCEEDED": "green", "CACHED": "cyan", "FAILED": "red", "KILLED": "red"}
    colour = colours.get(state)
    return f"[{colour}]{state}[/{colour}]" if colour else state
