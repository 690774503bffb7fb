"""A run's tasks, out of the many nodes that the cluster reports of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from graphlib import TopologicalSorter
from typing import Any

import kfp_server_api as api

from pipelines.cluster.api import Cluster, ClusterError

FINAL_STATES = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
_EPOCH_YEAR = 1970


@dataclass(frozen=True)
class TaskState:
    """A task of the graph."""

    key: str
    """As the graph and the cluster's nodes name it: `feature-extraction-2`."""
    name: str
    """As a person reads it: `feature_extraction/scenes`."""
    state: str
    started: datetime | None = None
    ended: datetime | None = None
    error: str = ""
    """Empty with most servers: KFP 2.17 declares the field and does not fill it."""
    pod: str = ""

    @property
    def seconds(self) -> float:
        """How long it took; 0 where that is not known."""
        if self.started is None or self.ended is None:
            return 0.0
        return max((self.ended - self.started).total_seconds(), 0.0)


def graph_of(cluster: Cluster, run: api.V2beta1Run) -> dict[str, str]:
    """Task key to shown name, from the version that the run is of; empty if it is not to be had."""
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
    """The same from a pipeline spec, alone or beside its platform spec; a task after its inputs."""
    alone: Mapping[str, Any] = spec.get("pipeline_spec", spec)
    tasks = alone.get("root", {}).get("dag", {}).get("tasks", {})
    needs = {key: task.get("dependentTasks", []) for key, task in tasks.items()}
    order = TopologicalSorter(needs).static_order()
    return {key: tasks[key]["taskInfo"]["name"].replace("-", "_") for key in order}


def task_states(run: api.V2beta1Run, graph: Mapping[str, str]) -> list[TaskState]:
    """The graph's tasks in its order, then what the cluster adds only if that failed: a driver."""
    details = {detail.display_name: detail for detail in _details(run)}
    keys = list(graph) or [name for name in details if _is_task(name)]
    states = [_state(key, graph.get(key, key), details.get(key)) for key in keys]
    drivers = [
        _state(name, name, detail)
        for name, detail in details.items()
        if name.endswith("-driver") and detail.state == "FAILED"
    ]
    return states + drivers


def failed_task(states: Iterable[TaskState]) -> TaskState | None:
    """The task that failed first."""
    failed = [state for state in states if state.state == "FAILED"]
    return min(failed, key=lambda state: (state.ended is None, state.ended), default=None)


def _details(run: api.V2beta1Run) -> Iterable[api.V2beta1PipelineTaskDetail]:
    return (run.run_details.task_details if run.run_details else None) or ()


def _is_task(name: str) -> bool:
    """Whether a node is a task; others are the root, drivers, executors and the workflow."""
    return not (name == "root" or name.startswith("executor") or name.endswith("-driver"))


def state_of(told: api.V2beta1Run | api.V2beta1PipelineTaskDetail) -> str:
    """Of a run or a task; KFP leaves it out until there is something to tell."""
    return str(told.state or "PENDING")


def _state(key: str, name: str, detail: api.V2beta1PipelineTaskDetail | None) -> TaskState:
    if detail is None:
        return TaskState(key, name, "PENDING")
    history = [status.error for status in detail.state_history or () if status.error]
    error = detail.error or (history[-1] if history else None)
    return TaskState(
        key,
        name,
        state_of(detail),
        _moment(detail.start_time),
        _moment(detail.end_time),
        (error.message or "") if error else "",
        detail.pod_name or "",
    )


def _moment(time: datetime | None) -> datetime | None:
    """The server writes 1970 (or Go's zero time) for what has not happened."""
    return time if time and time.year > _EPOCH_YEAR else None
