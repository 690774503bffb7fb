"""The story of a cluster's run: how far it came, where and why it stopped, what to do next."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import kfp_server_api as api

from pipelines.cluster.api import Cluster, ClusterError
from pipelines.cluster.nodes import DRIVER
from pipelines.cluster.outcome import outcome_of
from pipelines.cluster.pods import (
    Node,
    Pod,
    Workflow,
    latest_node,
    latest_pod,
    pods_of,
    workflow_of,
)
from pipelines.cluster.step_log import error_in, in_words, read_log, source_of
from pipelines.cluster.tasks import (
    FINAL_STATES,
    ended_at,
    failed_task,
    graph_of,
    resumed_at,
    run_state,
    stopped_at,
    task_states,
)
from pipelines.local.story import TAIL_LINES, Story, TaskState

_STORED = re.compile(
    r"/(?:minio|s3|gcs)/\S*?/(?P<run>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/"
    r"(?P<task>[a-z0-9-]+)/[0-9a-f-]{36}/"
)
"""Where a step finds an artifact that another task stored: run, task and a random folder."""
_RUN_AGAIN = re.compile(r"\brun (?P<step>[a-z_]+) again\b")
"""How a step ends its error about an artifact that is missing or damaged."""


@dataclass
class Sight:
    """What Kubernetes shows of a run, and what could not be read."""

    pods: list[Pod] = field(default_factory=list)
    workflow: Workflow | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def nodes(self) -> list[Node]:
        """The workflow's attempts, oldest first."""
        return self.workflow.nodes if self.workflow else []


def look(run_id: str, namespace: str) -> Sight:
    """Read the run's pods and workflow."""
    sight = Sight()
    try:
        sight.pods = pods_of(run_id, namespace)
    except ClusterError as error:
        sight.problems.append(str(error))
    try:
        sight.workflow = workflow_of(run_id, namespace)
    except ClusterError as error:
        sight.problems.append(str(error))
    return sight


def cluster_story(cluster: Cluster, run_id: str) -> Story:
    """The story of a run on a cluster."""
    run = cluster.call("reading the run", cluster.runs.run_service_get_run, run_id)
    states = task_states(run, graph_of(cluster, run))
    story = Story(f"{run.display_name} ({run_id})", run_state(run), states)
    story.started, story.ended = run.created_at, ended_at(run)
    cached = [task.name for task in states if task.state == "CACHED"]
    if cached:
        story.notes.append(f"from the cache: {', '.join(cached)}")
    resumed = resumed_at(run)
    if resumed:
        story.notes.append(f"resumed at {resumed:%H:%M:%S} UTC")
    if story.state == "SUCCEEDED":
        _add_outcome(story, run_id)
    else:
        sight = look(run_id, cluster.namespace)
        story.notes += [*_earlier_attempts(states, sight), *sight.problems]
        if story.state in FINAL_STATES:
            _add_end(cluster, run, story, sight)
        else:
            story.why = [f"{name}: {reason}" for name, reason in _waits(states, sight).items()]
    story.links |= {"UI": cluster.run_page(run_id), **_plugins(run)}
    return story


def waiting_pods(sight: Sight) -> list[Pod]:
    """Pods that cannot start."""
    return [pod for pod in sight.pods if pod.waiting]


def _add_outcome(story: Story, run_id: str) -> None:
    registration = next((task.state for task in story.tasks if task.key == "registration"), "")
    outcome = outcome_of(run_id, registration)
    story.figures, story.results = outcome.figures, outcome.results
    story.links, story.advice = outcome.links, outcome.advice


def _add_end(cluster: Cluster, run: api.V2beta1Run, story: Story, sight: Sight) -> None:
    """Where and why a run stopped."""
    stopped = stopped_at(run)
    if story.state == "FAILED" and sight.workflow and sight.workflow.was_stopped:
        story.state = "CANCELED"
        story.tasks = [
            replace(task, state="STOPPED") if task.state == "FAILED" else task
            for task in story.tasks
        ]
    failed = failed_task(story.tasks)
    story.failed = failed.name if failed else ""
    resume = f"`python -m pipelines runs resume {run.run_id}`"
    if story.state == "CANCELED":
        when = f" at {stopped:%H:%M:%S} UTC" if stopped else ""
        story.why = [f"somebody stopped the run{when}"]
        story.advice = f"{resume} continues with the tasks that did not finish"
        return
    story.advice = (
        f"once the cause is fixed, {resume} runs the failed tasks again; after a change of code or "
        "configuration, `submit` starts a new run that takes finished tasks from the cache"
    )
    if failed is None:
        return
    pod, node = latest_pod(sight.pods, failed.key), latest_node(sight.nodes, failed.key)
    why = [_read_error(cluster, run, story, failed, sight)]
    if pod and pod.reason:
        why.append(f"pod {pod.name}: {pod.reason}")
    elif node and node.message:
        tries = sum(attempt.task == failed.key for attempt in sight.nodes)
        why.append(node.message + (f" ({tries} tries)" if tries > 1 else ""))
    story.why = [reason for reason in why if reason]
    _advise_rerun(run, story)


def _read_error(
    cluster: Cluster, run: api.V2beta1Run, story: Story, failed: TaskState, sight: Sight
) -> str:
    """Put the end of the failed task's log into the story; the error that it reports."""
    pod, node = latest_pod(sight.pods, failed.key), latest_node(sight.nodes, failed.key)
    if failed.key.endswith(DRIVER) and not pod:
        return ""
    story.whole_log = f"`python -m pipelines runs logs {run.run_id} --task {failed.name}`"
    if pod:
        story.whole_log += f", or `kubectl logs -n {pod.namespace} {pod.name} -c main`"
    try:
        lines = read_log(cluster, source_of(run, failed.key, pod, sight.workflow, node))
    except ClusterError as error:
        story.notes.append(str(error))
        story.whole_log = ""
        return ""
    story.tail = [in_words(line) for line in lines[-TAIL_LINES:]]
    return error_in(lines)


def _advise_rerun(run: api.V2beta1Run, story: Story) -> None:
    """Name the cached tasks whose artifacts are gone, if that is why the step failed."""
    tasks = _gone(run, story)
    if not tasks:
        return
    names = ", ".join(tasks)
    story.why.append(f"the cache answered {names} with artifacts that are missing or damaged")
    options = " ".join(f"--rerun {name}" for name in tasks)
    story.advice = (
        f"`python -m pipelines submit … {options}` with the options of this run: {names} and what "
        "depends on it run again, the rest comes from the cache"
    )


def _gone(run: api.V2beta1Run, story: Story) -> list[str]:
    """Names of cached tasks that the error calls missing or damaged."""
    cached = {task.key: task.name for task in story.tasks if task.state == "CACHED"}
    text = "\n".join(story.why)
    stored = [match["task"] for match in _STORED.finditer(text) if match["run"] != run.run_id]
    by_path = [cached[task] for task in dict.fromkeys(stored) if task in cached]
    steps = {match["step"] for match in _RUN_AGAIN.finditer(text)}
    by_step = [name for name in cached.values() if name.partition("/")[0] in steps]
    return by_path or by_step


def _waits(states: Sequence[TaskState], sight: Sight) -> dict[str, str]:
    """What keeps a run in flight from starting its next step: by task, why."""
    names = {task.key: task.name for task in states}
    waits: dict[str, str] = {}
    for node in sight.nodes:
        if node.phase in ("Pending", "Error") and node.message and not node.log_key:
            waits[names.get(node.task, node.task)] = node.message
        elif node.phase in ("Running", "Succeeded"):
            waits.pop(names.get(node.task, node.task), None)
    for task in states:
        last = latest_pod(sight.pods, task.key)
        if task.state == "RUNNING" and last and last.phase == "Failed":
            waits[task.name] = (
                f"its last attempt ended: {last.reason}; Kubeflow waits before it tries again or "
                "gives up"
            )
    for pod in waiting_pods(sight):
        since = f" since {pod.waiting_since:%H:%M:%S} UTC" if pod.waiting_since else ""
        name = names.get(pod.task, pod.task)
        waits[name] = f"cannot start{since}: {pod.waiting}"
    return waits


def _earlier_attempts(states: Sequence[TaskState], sight: Sight) -> list[str]:
    """Attempts of the graph's tasks that ended badly and were not the last."""
    tasks = {task.key: task for task in states if not task.key.endswith(DRIVER)}
    notes = []
    for node in sight.nodes:
        task = tasks.get(node.task)
        if task is None or not node.message or not node.log_key:
            continue
        if node is not latest_node(sight.nodes, node.task) or task.state == "RUNNING":
            notes.append(f"attempt {node.attempt + 1} of {task.name} ended: {node.message}")
    return notes


def _plugins(run: api.V2beta1Run) -> Mapping[str, str]:
    """What KFP's plugins report, as MLflow's run; nothing of one that failed or is not set up."""
    return {
        f"{plugin} {name}": str(entry.value)
        for plugin, output in (run.plugins_output or {}).items()
        if output.state != "PLUGIN_FAILED"
        for name, entry in (output.entries or {}).items()
    }
