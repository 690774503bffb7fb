"""Start two short pods that try from inside what cannot be seen from outside: `doctor --probe`."""

import json
import logging
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.cluster.api import ClusterError
from pipelines.cluster.doctor.cluster_reader import ClusterReader, Json
from pipelines.cluster.doctor.finding import Finding
from pipelines.cluster.pods import TIMEOUT, core, short
from pipelines.graph.resources import (
    CONFIG_MAP,
    CREDENTIALS,
    OPTIONAL_SETTINGS,
    REQUIRED_SETTINGS,
    S3_SECRET,
    USER_ID,
)

logger = logging.getLogger(__name__)

SCRIPT = Path(__file__).with_name("probe_script.py")
POLL_S = 3.0
_LABELS = {"app.kubernetes.io/name": "product1m", "app.kubernetes.io/component": "doctor"}


@dataclass(frozen=True)
class Probe:
    """What the pods try."""

    images: Mapping[str, str]
    """Step to image: each is pulled."""
    bucket: str
    max_wait_s: float = 1800.0
    """Longest wait, enough for large images and a busy cluster."""


def probe(reader: ClusterReader, wanted: Probe) -> Iterator[Finding]:
    """Every finding; the pods are deleted in the end."""
    tag = secrets.token_hex(3)
    yield from _run(reader, wanted, step_pod(reader, wanted, f"product1m-doctor-{tag}"))
    yield from _run(reader, wanted, closed_pod(reader, wanted, f"product1m-doctor-{tag}-closed"))


def step_pod(reader: ClusterReader, wanted: Probe, name: str) -> Json:
    """A pod with a step's labels, account and environment, which pulls every image first."""
    pulled = sorted(set(wanted.images.values()) - {wanted.images["ingestion"]})
    first = [
        _container(f"pull-{number}", image, ["true"], []) for number, image in enumerate(pulled)
    ]
    command = ["python", "-c", SCRIPT.read_text("utf-8"), "step", wanted.bucket]
    main = _container("main", wanted.images["ingestion"], command, environment())
    return _pod(reader, name, _LABELS, first, main)


def closed_pod(reader: ClusterReader, wanted: Probe, name: str) -> Json:
    """A pod without a step's labels, which MLflow's network policy does not let in."""
    command = ["python", "-c", SCRIPT.read_text("utf-8"), "closed"]
    addresses = [entry for entry in environment() if entry["name"] in REQUIRED_SETTINGS]
    main = _container("main", wanted.images["ingestion"], command, addresses)
    return _pod(reader, name, {"app.kubernetes.io/component": "doctor"}, [], main)


def environment() -> list[Json]:
    """The variables of a step, as the compiled pipeline names them."""
    variables: list[Json] = [{"name": "HOME", "value": "/tmp"}]  # noqa: S108 the pod's own
    for names, optional in ((REQUIRED_SETTINGS, False), (OPTIONAL_SETTINGS, True)):
        for name in names:
            source = {"name": CONFIG_MAP, "key": name, "optional": optional}
            variables.append({"name": name, "valueFrom": {"configMapKeyRef": source}})
    for secret, names in CREDENTIALS.items():
        for name in names:
            source = {"name": secret, "key": name, "optional": secret == S3_SECRET}
            variables.append({"name": name, "valueFrom": {"secretKeyRef": source}})
    return variables


def _pod(
    reader: ClusterReader, name: str, labels: Mapping[str, str], first: list[Json], main: Json
) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": dict(labels)},
        "spec": {
            "restartPolicy": "Never",
            "serviceAccountName": reader.wanted.service_account,
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER_ID,
                "runAsGroup": USER_ID,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "initContainers": first,
            "containers": [main],
            "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}],
        },
    }


def _container(name: str, image: str, command: list[str], env: list[Json]) -> Json:
    return {
        "name": name,
        "image": image,
        "command": command,
        "env": env,
        "imagePullPolicy": "IfNotPresent",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": {
            "requests": {"cpu": "100m", "memory": "128Mi"},
            "limits": {"cpu": "1", "memory": "512Mi"},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
    }


def _run(reader: ClusterReader, wanted: Probe, pod: Json) -> Iterator[Finding]:
    name = pod["metadata"]["name"]
    try:
        reader.request("POST", reader.own("pods"), pod)
    except ClusterError as error:
        advice = "`doctor --probe` needs the right to create pods there"
        yield Finding("probe pod", "unknown", str(error), "a pod may start", advice)
        return
    try:
        yield from _outcome(reader, wanted, name)
    finally:
        reader.request("DELETE", reader.own("pods", name))


def _outcome(reader: ClusterReader, wanted: Probe, name: str) -> Iterator[Finding]:
    deadline = time.monotonic() + wanted.max_wait_s
    reported = ""
    while True:
        pod = reader.get(reader.own("pods", name)) or {}
        phase = pod.get("status", {}).get("phase", "")
        if phase in ("Succeeded", "Failed"):
            break
        waits = _waits(pod)
        stuck = "Err" in waits or "BackOff" in waits or "Invalid" in waits
        if stuck or time.monotonic() > deadline:
            advice = "see `kubectl describe pod`; push the images, or load them into kind"
            yield Finding("images", "problem", waits or phase, "a pod can start", advice)
            return
        if waits != reported:
            logger.info("the probe's pod waits: %s", waits or "it starts")
            reported = waits
        time.sleep(POLL_S)
    if pod["spec"]["initContainers"]:
        count = len(set(wanted.images.values()))
        yield Finding("images", "ok", f"all {count} could be pulled and started")
    yield from _read(reader, name, phase)


def _waits(pod: Mapping[str, Any]) -> str:
    """Why the pod does not run yet."""
    status = pod.get("status", {})
    for kind in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(kind) or ():
            waiting = (container.get("state") or {}).get("waiting")
            if waiting and waiting.get("reason") not in ("PodInitializing", "ContainerCreating"):
                return f"{container['image']}: {waiting.get('reason')} {waiting.get('message', '')}"
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return str(condition.get("message", "cannot be scheduled"))
    return ""


def _read(reader: ClusterReader, name: str, phase: str) -> Iterator[Finding]:
    try:
        answer = core().read_namespaced_pod_log(
            name,
            reader.wanted.namespace,
            container="main",
            _preload_content=False,  # the client would take a line of JSON for an object
            _request_timeout=TIMEOUT,
        )
        log = bytes(answer.data).decode("utf-8", "replace")
    except Exception as error:
        yield Finding("probe pod", "unknown", short(error), "its log", "")
        return
    reports = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    yield from (Finding(**values) for values in reports)
    if phase == "Failed" or not reports:
        tail = " | ".join(log.splitlines()[-3:])
        yield Finding("probe pod", "problem", f"ended early: {tail}", "every check runs", "")
