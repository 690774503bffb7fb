"""Rules of the installation: retries, time zone, pod security, network policies."""

from collections.abc import Iterator

import yaml

from pipelines.cluster.doctor.cluster_reader import SYSTEM_NAMESPACE, ClusterReader
from pipelines.cluster.doctor.finding import Finding

ENFORCE = "pod-security.kubernetes.io/enforce"
_ENFORCING = ("calico", "cilium", "kindnet", "kube-router", "antrea", "weave", "ovn", "canal")
"""Network plug-ins whose pods enforce NetworkPolicies; kindnet since kind 0.24."""
_TIMEZONE = "CRON_SCHEDULE_TIMEZONE"


def retries(reader: ClusterReader) -> Iterator[Finding]:
    """The policy that Argo adds to every step's retries."""
    path = f"/api/v1/namespaces/{SYSTEM_NAMESPACE}/configmaps/workflow-controller-configmap"
    config_map = reader.get(path)
    if config_map is None:
        yield Finding("retries", "unknown", "no workflow-controller-configmap", "", "")
        return
    defaults = yaml.safe_load((config_map.get("data") or {}).get("workflowDefaults") or "{}") or {}
    templates = (defaults.get("spec") or {}).get("templateDefaults") or {}
    policy = (templates.get("retryStrategy") or {}).get("retryPolicy", "")
    if policy == "OnError":
        yield Finding(
            "retries",
            "note",
            "OnError: a deleted or lost pod is started again, a step that fails is not",
            "nothing more: steps retry after temporary errors themselves",
            "for retries after any failure (out of memory, a full disk) set retryPolicy: Always in "
            "workflowDefaults of workflow-controller-configmap",
        )
    else:
        seen = policy or "none set, Argo retries OnFailure"
        yield Finding("retries", "ok", seen)


def time_zone(reader: ClusterReader) -> Iterator[Finding]:
    """The zone in which the scheduler reads cron expressions."""
    path = f"/apis/apps/v1/namespaces/{SYSTEM_NAMESPACE}/deployments/ml-pipeline-scheduledworkflow"
    deployment = reader.get(path)
    if deployment is None:
        yield Finding(
            "time zone", "unknown", "no deployment ml-pipeline-scheduledworkflow",
            "schedules need it", "install all of Kubeflow Pipelines",
        )  # fmt: skip
        return
    (container, *_) = deployment["spec"]["template"]["spec"]["containers"]
    values = {entry["name"]: entry.get("value", "") for entry in container.get("env") or ()}
    zone = values.get(_TIMEZONE) or "UTC"
    wanted = reader.wanted.timezone
    level, advice = ("ok", "") if zone == wanted else (
        "note", f"write `timezone: {zone}` in manifests/schedules.yaml",
    )  # fmt: skip
    yield Finding("time zone", level, zone, f"{wanted}, as schedules.yaml says", advice)  # type: ignore[arg-type]


def pod_security(reader: ClusterReader) -> Iterator[Finding]:
    """The Pod Security Standard of the namespace; steps keep to `restricted`."""
    namespace = reader.wanted.namespace
    existing = reader.get(f"/api/v1/namespaces/{namespace}")
    if existing is None:
        yield Finding(
            "namespace", "problem", f"{namespace} does not exist", namespace,
            "create it as manifests/README.md says",
        )  # fmt: skip
        return
    level = (existing["metadata"].get("labels") or {}).get(ENFORCE, "none")
    yield Finding(
        "pod security", "ok", f"{namespace} enforces {level}", "any; steps are restricted"
    )


def network(reader: ClusterReader) -> Iterator[Finding]:
    """Whether there are policies, and a plug-in that is known to enforce them."""
    namespace = reader.wanted.namespace
    policies = reader.items(f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies")
    daemons = reader.items("/apis/apps/v1/namespaces/kube-system/daemonsets")
    names = [str(daemon["metadata"]["name"]) for daemon in daemons]
    known = sorted(name for name in names if any(plug in name for plug in _ENFORCING))
    seen = f"{len(policies)} in {namespace}; plug-in: {', '.join(known) or 'none that is known'}"
    if policies and known:
        yield Finding("network policies", "ok", seen)
    else:
        yield Finding(
            "network policies", "note", seen, "policies and a plug-in that enforces them",
            "`doctor --probe` tries whether they are enforced",
        )  # fmt: skip
