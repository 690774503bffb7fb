"""A run's state and its tasks, from the many nodes that the cluster lists for it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from graphlib import TopologicalSorter
from itertools import pairwise
from typing import Any

import kfp_server_api as api

from pipelines.cluster.api import Cluster, ClusterError
from pipelines.cluster.nodes import (
    DRIVER,
    EXECUTOR,
    POD_TEMPLATE,
    executor_ids,
    is_attempt,
    workflow_name,
)
from pipelines.local.story import TaskState

FINAL_STATES = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
_EPOCH_YEAR = 1970
_CONDITION = re.compile(r"condition-\d+")
"""KFP's names for the tasks below a `dsl.If`."""


def graph_of(cluster: Cluster, run: api.V2beta1Run) -> dict[str, str]:
    """Task key to shown name, from the run's pipeline version; empty if that cannot be read."""
    spec = run.pipeline_spec
    reference = run.pipeline_version_reference
    if not spec and reference:
        method = cluster.pipelines.pipeline_service_get_pipeline_version
        try:
            spec = cluster.call(
                "reading the version", method, reference.pipeline_id, reference.pipeline_version_id
            ).pipeline_spec
        except ClusterError:
            return {}
    return graph_of_spec(spec or {})


def graph_of_spec(spec: Mapping[str, Any]) -> dict[str, str]:
    """The same from a pipeline spec, alone or beside its platform spec; a task after its inputs.

    A condition at the root is no task; the tasks that depend on it stand in its place.
    """
    alone: Mapping[str, Any] = spec.get("pipeline_spec", spec)
    graph: dict[str, str] = {}
    for key, task in _in_order(alone.get("root", {})):
        if _CONDITION.fullmatch(key):
            inner = _in_order(alone.get("components", {}).get(task["componentRef"]["name"], {}))
        else:
            inner = [(key, task)]
        graph |= {key: task["taskInfo"]["name"].replace("-", "_") for key, task in inner}
    return graph


def _in_order(component: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The tasks of a component that is a graph, each after its inputs."""
    tasks = component.get("dag", {}).get("tasks", {})
    needs = {key: task.get("dependentTasks", []) for key, task in tasks.items()}
    return [(key, tasks[key]) for key in TopologicalSorter(needs).static_order()]


def run_state(run: api.V2beta1Run) -> str:
    """The run's state; `CANCELED` if somebody stopped it, which KFP 2.17 reports as `FAILED`."""
    return "CANCELED" if stopped_at(run) else str(run.state or "PENDING")


def stopped_at(run: api.V2beta1Run) -> datetime | None:
    """When somebody stopped the run; None if nobody did, or if it was resumed since."""
    history = _history(run)
    if run.state == "CANCELED":
        return moment(history[-1].update_time if history else run.finished_at)
    if run.state == "FAILED" and len(history) > 1 and history[-2].state == "CANCELING":
        return moment(history[-2].update_time)
    return None


def resumed_at(run: api.V2beta1Run) -> datetime | None:
    """When the run was last resumed; None if it never was."""
    history = _history(run)
    for before, after in reversed(list(pairwise(history))):
        if after.state == "RUNNING" and before.state in FINAL_STATES:
            return moment(after.update_time)
    return None


def ended_at(run: api.V2beta1Run) -> datetime | None:
    """When the run ended; None while it runs, for which the server writes 1970."""
    return moment(run.finished_at) if run_state(run) in FINAL_STATES else None


def task_states(run: api.V2beta1Run, graph: Mapping[str, str]) -> list[TaskState]:
    """The graph's tasks in its order, then every driver that failed."""
    named = [detail for detail in _details(run) if detail.display_name]
    latest = _latest(named)
    workflow = workflow_name(named)
    by_start = sorted(latest, key=lambda name: _start(latest[name]))
    keys = list(graph) or [name for name in by_start if _is_task(name, workflow)]
    started = _executors(named)
    are_retried = any(is_attempt(name) for name in latest)
    conditions = _conditions(latest)
    is_skipped = any(latest[name].state == "SKIPPED" for name in conditions)
    states = []
    for key in keys:
        ran = not are_retried or not started.isdisjoint(executor_ids(workflow, key, conditions))
        states.append(_task(run, key, graph.get(key, key), latest.get(key), ran))
    if is_skipped:
        states = [
            replace(task, state="SKIPPED") if task.state in ("NOT RUN", "PENDING") else task
            for task in states
        ]
    drivers = (_task(run, name, name, latest[name], True) for name in latest if _is_driver(name))
    return states + [driver for driver in drivers if driver.state == "FAILED"]


def last_pod_name(run: api.V2beta1Run, key: str) -> str:
    """Name of the pod of the task's last attempt as KFP forms it; empty if it had none.

    For those who may ask the pipeline API and not Kubernetes.
    """
    named = [detail for detail in _details(run) if detail.display_name]
    workflow = workflow_name(named)
    attempts = executor_ids(workflow, key, _conditions(_latest(named)))
    ids = [node for node in _executors(named) if node in attempts]
    if not ids:
        return ""
    number = max(ids, key=lambda node: attempts[node]).rpartition("-")[2]
    return f"{workflow}-{POD_TEMPLATE}-{number}"


def failed_task(states: Iterable[TaskState]) -> TaskState | None:
    """The task that failed or was stopped first."""
    failed = [state for state in states if state.state in ("FAILED", "STOPPED")]
    return min(failed, key=lambda state: (state.ended is None, state.ended), default=None)


def moment(time: datetime | None) -> datetime | None:
    """The time; None for 1970 or year 1, which the server writes for what has not happened."""
    return time if time and time.year > _EPOCH_YEAR else None


def _details(run: api.V2beta1Run) -> Iterable[api.V2beta1PipelineTaskDetail]:
    return (run.run_details.task_details if run.run_details else None) or ()


def _executors(named: Iterable[api.V2beta1PipelineTaskDetail]) -> set[str]:
    """Ids of the nodes of all attempts of steps."""
    return {
        str(child.pod_name)
        for detail in named
        if detail.display_name == EXECUTOR
        for child in detail.child_tasks or ()
    }


def _history(run: api.V2beta1Run) -> Sequence[api.V2beta1RuntimeStatus]:
    """The states a run went through; the server lists some without a state."""
    return [status for status in run.state_history or () if status.state]


def _latest(
    named: Iterable[api.V2beta1PipelineTaskDetail],
) -> dict[str, api.V2beta1PipelineTaskDetail]:
    """Node by name, of several the one that ran last: KFP tries a whole workflow again."""
    latest: dict[str, api.V2beta1PipelineTaskDetail] = {}
    for detail in sorted(named, key=_start):
        if detail.state or detail.display_name not in latest:
            latest[detail.display_name] = detail
    return latest


def _start(detail: api.V2beta1PipelineTaskDetail) -> float:
    started = moment(detail.start_time)
    return started.timestamp() if started else 0.0


def _conditions(names: Iterable[str]) -> tuple[str, ...]:
    """The nodes of conditions, whose tasks run only if they hold."""
    return tuple(sorted(name for name in names if _CONDITION.fullmatch(name)))


def _is_task(name: str, workflow: str) -> bool:
    """Whether a node is a task; others are attempts, the root, drivers and the workflow."""
    is_other = name in ("root", EXECUTOR, workflow) or _is_driver(name)
    is_other = is_other or bool(_CONDITION.fullmatch(name))
    return not (is_other or is_attempt(name))


def _is_driver(name: str) -> bool:
    return name.endswith(DRIVER)


def _task(
    run: api.V2beta1Run,
    key: str,
    name: str,
    detail: api.V2beta1PipelineTaskDetail | None,
    ran: bool,
) -> TaskState:
    is_over = run_state(run) in FINAL_STATES
    if detail is None or not detail.state:
        return TaskState(key, name, "NOT RUN" if is_over else "PENDING")
    state = str(detail.state)
    started, ended = moment(detail.start_time), moment(detail.end_time)
    resumed, stopped = resumed_at(run), stopped_at(run)
    if state == "FAILED" and ended and resumed and ended < resumed:
        return TaskState(key, name, "PENDING")  # a state from before the run was resumed
    if state == "FAILED" and ended and stopped and ended >= stopped:
        state = "STOPPED"
    if state == "SUCCEEDED" and not ran:
        return TaskState(key, name, "CACHED")
    return TaskState(key, name, state, started, ended)
