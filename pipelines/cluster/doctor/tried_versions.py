"""Versions of Kubernetes, Kubeflow Pipelines and Argo against those that a run was tried on."""

import re
from collections.abc import Iterator

from pipelines.cluster.doctor.cluster_reader import SYSTEM_NAMESPACE, ClusterReader, image_version
from pipelines.cluster.doctor.finding import Finding

TRIED = {"Kubernetes": "1.34", "Kubeflow Pipelines": "2.17", "Argo Workflows": "4.0"}
OLDEST = {"Kubernetes": "1.32", "Kubeflow Pipelines": "2.17", "Argo Workflows": "3.7"}
_DEPLOYMENTS = {"Kubeflow Pipelines": "ml-pipeline", "Argo Workflows": "workflow-controller"}


def versions(reader: ClusterReader) -> Iterator[Finding]:
    """A finding each."""
    answer = reader.get("/version") or {}
    yield compared("Kubernetes", str(answer.get("gitVersion", "")).removeprefix("v"))
    for name, deployment in _DEPLOYMENTS.items():
        path = f"/apis/apps/v1/namespaces/{SYSTEM_NAMESPACE}/deployments/{deployment}"
        deployment_object = reader.get(path)
        if deployment_object is None:
            yield Finding(
                name,
                "problem",
                f"no deployment {deployment} in {SYSTEM_NAMESPACE}",
                f"{name} {OLDEST[name]}",
                "install Kubeflow Pipelines, see manifests/README.md",
            )
        else:
            yield compared(name, image_version(deployment_object))
            yield from _ready(name, deployment_object)


def compared(name: str, version: str) -> Finding:
    """The version beside the oldest that can work and the one that was tried."""
    needed = f"{OLDEST[name]} or later; tried with {TRIED[name]}"
    if not _numbers(version):
        return Finding(name, "unknown", f"version {version or 'unknown'}", needed)
    if _numbers(version) < _numbers(OLDEST[name]):
        return Finding(name, "problem", f"version {version}", needed, f"upgrade {name}")
    is_tried = _numbers(version) == _numbers(TRIED[name])
    advice = (
        "" if is_tried else "run `check-cluster` after every upgrade; this version was not tried"
    )
    return Finding(name, "ok" if is_tried else "note", f"version {version}", needed, advice)


def _ready(name: str, deployment: dict[str, object]) -> Iterator[Finding]:
    status = deployment.get("status")
    ready = status.get("readyReplicas", 0) if isinstance(status, dict) else 0
    if not ready:
        yield Finding(
            name,
            "problem",
            "no replica is ready",
            "one ready replica",
            f"`kubectl -n {SYSTEM_NAMESPACE} get pods` says what it waits for",
        )


def _numbers(version: str) -> tuple[int, ...]:
    """Major and minor."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
