"""A run's pods and its Argo workflow: what Kubernetes knows that the pipeline API does not say.

KFP 2.17 reports neither why a pod ended or cannot start, nor its name. Kubernetes does, where the
kubeconfig or the pod's own account may read pods and workflows.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import urllib3
from kubernetes import client, config
from kubernetes.config.config_exception import ConfigException

from pipelines.cluster.api import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, ClusterError
from pipelines.cluster.nodes import task_of

RUN_LABEL = "pipeline/runid"
NODE_ANNOTATION = "workflows.argoproj.io/node-name"
DEFAULT_NAMESPACE = "kubeflow"
MAIN = "main"
TIMEOUT = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
FAILURES = (ConfigException, client.ApiException, urllib3.exceptions.HTTPError)
"""What reading from Kubernetes can raise."""
_STARTING = (None, "PodInitializing", "ContainerCreating")
_GROUP, _VERSION, _PLURAL = "argoproj.io", "v1alpha1", "workflows"
_NO_NEWS = ("omitted:", "when '", "No more retries left", "Backoff for", "retry exceeded")
"""Beginnings of messages of workflow nodes that explain nothing."""


@dataclass(frozen=True)
class Pod:
    """An attempt of a task, or its driver."""

    name: str
    namespace: str
    task: str
    """Key of the task in the graph; `TASK-driver` for a driver."""
    attempt: int
    phase: str
    reason: str = ""
    """Why it ended badly: `OOMKilled, exit code 137`; empty if it did not."""
    waiting: str = ""
    """Why it cannot start: `ImagePullBackOff: …`; empty if it runs or starts normally."""
    waiting_since: datetime | None = None


@dataclass(frozen=True)
class Node:
    """An attempt in the run's workflow."""

    task: str
    attempt: int
    phase: str
    message: str
    pod: str
    """Name of its pod, which may be gone."""
    log_key: str
    """Where Argo keeps the pod's log in the artifact store; empty if it keeps none."""


@dataclass(frozen=True)
class Workflow:
    """The run's Argo workflow."""

    name: str
    bucket: str
    """Bucket of the logs that Argo keeps."""
    nodes: list[Node]
    """Attempts, oldest first."""
    was_stopped: bool
    """Stopping a run sets its workflow's deadline to its start."""


def pods_of(run_id: str, namespace: str = "") -> list[Pod]:
    """The run's pods, oldest first; ClusterError if they cannot be read."""
    namespace = namespace or DEFAULT_NAMESPACE
    try:
        listed = core().list_namespaced_pod(
            namespace, label_selector=f"{RUN_LABEL}={run_id}", _request_timeout=TIMEOUT
        )
    except FAILURES as error:
        raise ClusterError(f"pods of {run_id} in {namespace}: {short(error)}") from error
    items = sorted(
        listed.items, key=lambda item: (str(item.metadata.creation_timestamp), item.metadata.name)
    )
    return [pod for pod in map(_pod, items) if pod.task]


def workflow_of(run_id: str, namespace: str = "") -> Workflow | None:
    """The run's workflow; None once it is deleted. ClusterError if it cannot be read."""
    namespace = namespace or DEFAULT_NAMESPACE
    try:
        core()
        listed = client.CustomObjectsApi().list_namespaced_custom_object(
            *(_GROUP, _VERSION, namespace, _PLURAL),
            label_selector=f"{RUN_LABEL}={run_id}",
            _request_timeout=TIMEOUT,
        )
    except FAILURES as error:
        raise ClusterError(f"workflow of {run_id} in {namespace}: {short(error)}") from error
    return _workflow(listed["items"][0]) if listed.get("items") else None


def latest_pod(pods: Iterable[Pod], task: str) -> Pod | None:
    """The task's last attempt."""
    attempts = [pod for pod in pods if pod.task == task]
    return max(attempts, key=lambda pod: pod.attempt, default=None)


def latest_node(nodes: Sequence[Node], task: str) -> Node | None:
    """The workflow's node of the task's last attempt."""
    return next((node for node in reversed(nodes) if node.task == task), None)


def core() -> Any:
    """The Kubernetes API, from inside a pod or by the kubeconfig."""
    try:
        config.load_incluster_config()
    except ConfigException:
        config.load_kube_config()
    return client.CoreV1Api()


def short(error: Exception) -> str:
    """What went wrong, in a line."""
    if isinstance(error, client.ApiException):
        return f"{error.status} {error.reason}"
    if isinstance(error, ConfigException):
        return f"no kubeconfig to read them with: {error}"
    return str(getattr(error, "reason", None) or error)[:200]


def _pod(item: Any) -> Pod:
    task, attempt = task_of((item.metadata.annotations or {}).get(NODE_ANNOTATION, ""))
    waiting, since = _waiting(item)
    return Pod(
        item.metadata.name,
        item.metadata.namespace,
        task,
        attempt,
        item.status.phase or "",
        _ending(item.status),
        waiting,
        since,
    )


def _ending(status: Any) -> str:
    """Why the pod ended badly: its containers' reasons, then its own."""
    reasons = []
    for container in (*(status.init_container_statuses or ()), *(status.container_statuses or ())):
        ended = container.state and container.state.terminated
        if ended and ended.exit_code:
            where = "" if container.name == MAIN else f"{container.name}: "
            reasons.append(f"{where}{ended.reason or 'ended'}, exit code {ended.exit_code}")
    own = ": ".join(part for part in (status.reason, status.message) if part)
    return "; ".join([*reasons, own] if own else reasons)


def _waiting(item: Any) -> tuple[str, datetime | None]:
    """Why the pod cannot start, and since when."""
    status = item.status
    if status.phase != "Pending":
        return "", None
    for condition in status.conditions or ():
        if condition.type == "PodScheduled" and condition.status == "False":
            reason = f"{condition.reason}: {condition.message}"
            return reason, condition.last_transition_time
    for container in (*(status.init_container_statuses or ()), *(status.container_statuses or ())):
        waits = container.state and container.state.waiting
        if waits and waits.reason not in _STARTING:
            reason = ": ".join(part for part in (waits.reason, waits.message) if part)
            return reason, item.metadata.creation_timestamp
    return "", None


def _workflow(item: Mapping[str, Any]) -> Workflow:
    status = item.get("status", {})
    name = item["metadata"]["name"]
    repository = status.get("artifactRepositoryRef", {}).get("artifactRepository", {})
    ordered = sorted(status.get("nodes", {}).values(), key=lambda node: str(node.get("startedAt")))
    pods = [_node(name, node) for node in ordered if node.get("type") == "Pod"]
    return Workflow(
        name,
        repository.get("s3", {}).get("bucket", ""),
        [node for node in pods if node.task],
        _has_no_time(status),
    )


def _has_no_time(status: Mapping[str, Any]) -> bool:
    """Whether the workflow ended because its deadline is its own start."""
    started = str(status.get("startedAt", "")).replace("T", " ").removesuffix("Z")
    return f"exceeded workflow deadline {started}" in status.get("message", "")


def _node(workflow: str, node: Mapping[str, Any]) -> Node:
    task, attempt = task_of(node["name"])
    message = node.get("message", "")
    keys = [
        artifact.get("s3", {}).get("key", "")
        for artifact in node.get("outputs", {}).get("artifacts", ())
        if artifact.get("name") == "main-logs"
    ]
    return Node(
        task,
        attempt,
        node.get("phase", ""),
        "" if message.startswith(_NO_NEWS) else message,
        f"{workflow}-{node.get('templateName', '')}-{node['id'].rpartition('-')[2]}",
        keys[0] if keys else "",
    )
