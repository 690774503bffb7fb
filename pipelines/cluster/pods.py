"""The pods of a run: what Kubernetes says of them that the pipeline API does not.

KFP 2.17 tells neither why a pod ended (out of memory, no such image) nor its name; Kubernetes
does, where the kubeconfig or the pod's own account may read pods.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import kfp_server_api as api
import urllib3
from kubernetes import client, config
from kubernetes.config.config_exception import ConfigException

from pipelines.cluster.api import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, Cluster, ClusterError

logger = logging.getLogger(__name__)

RUN_LABEL = "pipeline/runid"
NODE_ANNOTATION = "workflows.argoproj.io/node-name"
"""`workflow.root.indexing.executor(0)`."""
DEFAULT_NAMESPACE = "kubeflow"
MAIN = "main"
_TIMEOUT = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)


@dataclass(frozen=True)
class Pod:
    """A task's attempt."""

    name: str
    namespace: str
    task: str
    """Key of the task in the graph."""
    phase: str
    reason: str
    """`OOMKilled, exit code 137`; `ImagePullBackOff: …`; empty if there is nothing to say."""


def pods_of(run_id: str, namespace: str = "") -> list[Pod]:
    """The run's pods that ran steps, oldest first; ClusterError if they cannot be read."""
    namespace = namespace or DEFAULT_NAMESPACE
    try:
        listed = _core().list_namespaced_pod(
            namespace, label_selector=f"{RUN_LABEL}={run_id}", _request_timeout=_TIMEOUT
        )
    except ConfigException as error:
        raise ClusterError(f"pods of {run_id}: no kubeconfig to read them with: {error}") from error
    except (client.ApiException, urllib3.exceptions.HTTPError) as error:
        raise ClusterError(f"pods of {run_id} in {namespace}: {_short(error)}") from error
    return [_pod(item) for item in _by_age(listed.items) if _task(item)]


def latest_pod(pods: Iterable[Pod], task: str) -> Pod | None:
    """The task's last attempt."""
    return next((pod for pod in reversed(list(pods)) if pod.task == task), None)


def log_of(cluster: Cluster, run_id: str, pod: Pod) -> str:
    """What the step printed: from the pod, or from KFP's archive when the pod is gone.

    Raises ClusterError if neither has it.
    """
    try:
        log: str = _core().read_namespaced_pod_log(
            pod.name, pod.namespace, container=MAIN, _request_timeout=_TIMEOUT
        )
    except (ConfigException, client.ApiException, urllib3.exceptions.HTTPError) as error:
        logger.info("log of %s: %s; asking KFP's archive", pod.name, _short(error))
        return archived_log(cluster, run_id, pod.name)
    return log


def archived_log(cluster: Cluster, run_id: str, pod: str) -> str:
    """What KFP has of a pod's log; it is no part of the published API."""
    path = f"/apis/v1alpha1/runs/{run_id}/nodes/{pod}/log"

    def read(_request_timeout: tuple[float, float]) -> str:
        answer = cluster.client.call_api(
            path,
            "GET",
            response_type="str",
            auth_settings=["Bearer"],
            _return_http_data_only=True,
            _preload_content=False,
            _request_timeout=_request_timeout,
        )
        if answer.status != 200:
            raise api.ApiException(http_resp=answer)
        return bytes(answer.data).decode("utf-8", "replace")

    return str(cluster.call(f"reading the log of {pod}", read))


def _core() -> Any:
    try:
        config.load_incluster_config()
    except ConfigException:
        config.load_kube_config()
    return client.CoreV1Api()


def _by_age(items: Iterable[Any]) -> list[Any]:
    return sorted(
        items, key=lambda item: (str(item.metadata.creation_timestamp), item.metadata.name)
    )


def _pod(item: Any) -> Pod:
    status = item.status
    containers = [each for each in status.container_statuses or () if each.name == MAIN]
    reason = _state(containers[0].state) if containers else ""
    told = ": ".join(part for part in (status.reason, status.message) if part)
    return Pod(
        item.metadata.name,
        item.metadata.namespace,
        _task(item),
        status.phase or "",
        "; ".join(part for part in (reason, told) if part),
    )


def _state(state: Any) -> str:
    """Why a container waits or ended badly."""
    if state and state.terminated and state.terminated.exit_code:
        ended = state.terminated
        return f"{ended.reason or 'ended'}, exit code {ended.exit_code}"
    if state and state.waiting and state.waiting.reason not in (None, "PodInitializing"):
        return ": ".join(part for part in (state.waiting.reason, state.waiting.message) if part)
    return ""


def _task(item: Any) -> str:
    """The task whose step the pod runs; empty for a driver's."""
    node = (item.metadata.annotations or {}).get(NODE_ANNOTATION, "")
    parts = node.split(".")
    return parts[-2] if len(parts) > 2 and parts[-1].startswith("executor") else ""


def _short(error: Exception) -> str:
    if isinstance(error, client.ApiException):
        return f"{error.status} {error.reason}"
    return str(getattr(error, "reason", None) or error)[:200]
