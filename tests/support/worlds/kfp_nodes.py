"""The nodes and pods that KFP 2.17 and Argo 4 make of a run, as the recordings show them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import kfp_server_api as api

ZERO = datetime(1, 1, 1, tzinfo=UTC)
"""End of what runs (Go's zero time)."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""End of a run in flight."""
TEMPLATE = "metadata-0-3-retry-system-container-impl"
_ENDED = ("SUCCEEDED", "FAILED", "SKIPPED")
Json = dict[str, Any]


def node_id(workflow: str, name: str) -> str:
    """Argo's id of a node: 32 bits of FNV-1a over its name."""
    value = 2166136261
    for byte in name.encode():
        value = (value ^ byte) * 16777619 % 2**32
    return f"{workflow}-{value}"


def executor_name(workflow: str, task: str, attempt: int = 0) -> str:
    """Name of the node of a task's pod."""
    return f"{workflow}(0).root(0).{task}(0).executor({attempt})"


class Nodes:
    """The task details of one run."""

    def __init__(self, run_id: str, workflow: str, start: datetime) -> None:
        self.run_id, self.workflow, self.start = run_id, workflow, start
        self.details: list[api.V2beta1PipelineTaskDetail] = []

    def tree(
        self, run_state: str, tasks: Mapping[str, str], omitted: Sequence[str]
    ) -> list[api.V2beta1PipelineTaskDetail]:
        """Of a run in a state whose tasks are in theirs; `CACHED` is a task the cache answered."""
        path = f"{self.workflow}(0)"
        end = self.start + timedelta(minutes=30)
        self._retry(self.workflow, self.workflow, run_state, self.start, end)
        self._driver(f"{path}.root-driver", "SUCCEEDED", self.start)
        self._retry("root", f"{path}.root", run_state, self.start, end)
        for order, (task, state) in enumerate(tasks.items()):
            begun = self.start + timedelta(minutes=order)
            if task.endswith("-driver"):
                self._driver(f"{path}.root(0).{task}", state, begun)
            else:
                self._task(f"{path}.root(0).{task}", state, begun)
        for task in omitted:
            for name in {task, f"{task}-driver"} - set(tasks):
                self._add(name, "", (), end, end)
        return self.details

    def _task(self, path: str, state: str, begun: datetime) -> None:
        name = path.rpartition(".")[2]
        ended = begun + timedelta(minutes=1)
        if state == "CACHED":
            self._driver(f"{path}-driver", "SUCCEEDED", begun)
            self._add("executor", "SKIPPED", ("SKIPPED",), begun, begun)
            self._add(name, "SUCCEEDED", ("SUCCEEDED",), begun, begun, f"{path}(0)")
            self._add(
                f"{name}(0)", "SUCCEEDED", ("SUCCEEDED",), begun, begun, f"{path}(0).executor"
            )
            return
        self._driver(f"{path}-driver", "SUCCEEDED", begun)
        self._retry(name, path, state, begun, ended, f"{path}(0).executor")
        self._retry("executor", f"{path}(0).executor", state, begun, ended, is_pod=True)
        if state == "SUCCEEDED":
            self.details.append(
                api.V2beta1PipelineTaskDetail(
                    run_id=self.run_id,
                    task_id=f"execution-of-{name}",
                    create_time=begun,
                    start_time=begun,
                    end_time=ended,
                    execution_id="54",
                )
            )

    def _driver(self, path: str, state: str, begun: datetime) -> None:
        name = path.rpartition(".")[2]
        self._retry(name, path, state, begun, begun + timedelta(seconds=10), is_pod=True)

    def _retry(
        self,
        name: str,
        path: str,
        state: str,
        begun: datetime,
        ended: datetime,
        child: str = "",
        is_pod: bool = False,
    ) -> None:
        """A node and its first attempt."""
        last = (state,) if state in _ENDED else ()
        self._add(name, state, ("RUNNING", *last), begun, ended, f"{path}(0)")
        if is_pod:
            waiting = (
                ("PENDING",) if state in _ENDED and "driver" in name else ("PENDING", "RUNNING")
            )
            self._add(f"{name}(0)", state, (*waiting, *last), begun, ended, child)
        else:
            self._add(f"{name}(0)", state, ("RUNNING", *last), begun, ended, child)

    def _add(
        self,
        name: str,
        state: str,
        history: Sequence[str],
        begun: datetime,
        ended: datetime,
        child: str = "",
    ) -> None:
        statuses = [api.V2beta1RuntimeStatus(update_time=begun, state=each) for each in history]
        if not state:
            statuses = [api.V2beta1RuntimeStatus(update_time=begun)]
        children = [api.PipelineTaskDetailChildTask(pod_name=node_id(self.workflow, child))]
        self.details.append(
            api.V2beta1PipelineTaskDetail(
                run_id=self.run_id,
                task_id=f"task-{len(self.details)}",
                display_name=name,
                create_time=begun,
                start_time=begun,
                end_time=ended if state in _ENDED or not state else ZERO,
                state=state or None,
                state_history=statuses,
                child_tasks=children if child else None,
            )
        )


def make_pod(
    run_id: str, workflow: str, task: str, main: Json, attempt: int = 0, minutes: int = 0
) -> Json:
    """A task's pod; `main` is the state of the step's container, as `{"waiting": {…}}`."""
    node = executor_name(workflow, task, attempt)
    number = node_id(workflow, node).rpartition("-")[2]
    created = datetime(2026, 11, 23, 3, minutes, tzinfo=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{workflow}-{TEMPLATE}-{number}",
            "namespace": "kubeflow",
            "creationTimestamp": created,
            "labels": {
                "app.kubernetes.io/component": task,
                "pipeline/runid": run_id,
                "workflows.argoproj.io/workflow": workflow,
            },
            "annotations": {
                "workflows.argoproj.io/node-id": f"{workflow}-{number}",
                "workflows.argoproj.io/node-name": node,
            },
        },
        "spec": {
            "serviceAccountName": "pipeline-runner",
            "containers": [{"name": "wait"}, {"name": "main"}],
            "initContainers": [{"name": "init"}, {"name": "kfp-launcher"}],
        },
        "status": _pod_status(main, created),
    }


def _pod_status(main: Json, created: str) -> Json:
    """Scheduled and initialized when created; the main container is in a state."""
    ended = main.get("terminated", {})
    phase = "Pending" if "waiting" in main else "Running"
    if ended:
        phase = "Failed" if ended["exitCode"] else "Succeeded"
    scheduled = {
        "type": "PodScheduled",
        "status": "True",
        "lastProbeTime": None,
        "lastTransitionTime": created,
    }
    times = {"startedAt": created, "finishedAt": created}
    completed = {"terminated": {"exitCode": 0, "reason": "Completed", **times}}
    return {
        "phase": phase,
        "conditions": [scheduled],
        "initContainerStatuses": [_container(name, completed) for name in ("init", "kfp-launcher")],
        "containerStatuses": [_container("main", main)],
    }


def make_workflow(run_id: str, workflow: str, nodes: Sequence[tuple[str, str, str]]) -> Json:
    """A run's workflow with pods of (node name, phase, message); what is Pending has no log."""
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {
            "name": workflow,
            "namespace": "kubeflow",
            "labels": {"pipeline/runid": run_id},
        },
        "status": {
            "phase": "Failed",
            "startedAt": "2026-11-23T03:00:00Z",
            "artifactRepositoryRef": {"artifactRepository": {"s3": {"bucket": "mlpipeline"}}},
            "nodes": {
                node_id(workflow, name): {
                    "id": node_id(workflow, name),
                    "name": name,
                    "type": "Pod",
                    "phase": phase,
                    "message": message,
                    "templateName": TEMPLATE,
                    "startedAt": f"2026-11-23T03:{order:02}:00Z",
                    **({} if phase == "Pending" else _kept_log(f"logs/{order}/main.log")),
                }
                for order, (name, phase, message) in enumerate(nodes)
            },
        },
    }


def _kept_log(key: str) -> Json:
    return {"outputs": {"artifacts": [{"name": "main-logs", "s3": {"key": key}}]}}


def _container(name: str, state: Json) -> Json:
    return {
        "name": name,
        "image": f"{name}:1",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "started": False,
        "state": state,
        "lastState": {},
    }
