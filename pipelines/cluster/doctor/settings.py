"""What a run finds in its namespace: account, ConfigMap, Secrets with their keys, work volume."""

from collections.abc import Iterator

from pipelines.cluster.doctor.cluster_reader import ClusterReader
from pipelines.cluster.doctor.finding import Finding
from pipelines.graph.resources import (
    CONFIG_MAP,
    CREDENTIALS,
    OPTIONAL_SETTINGS,
    REQUIRED_SETTINGS,
    S3_SECRET,
)

APPLY = "`kubectl apply -k manifests/overlays/local` (or your overlay)"
SECRETS = "make it as manifests/README.md says under Secrets"


def account(reader: ClusterReader) -> Iterator[Finding]:
    """The service account that `--service-account` names."""
    name = reader.wanted.service_account
    if reader.get(reader.own("serviceaccounts", name)) is None:
        where = f"{name} in {reader.wanted.namespace}"
        yield Finding("service account", "problem", "does not exist", where, APPLY)
    else:
        yield Finding("service account", "ok", name)


def addresses(reader: ClusterReader) -> Iterator[Finding]:
    """The ConfigMap with addresses and experiment."""
    subject = f"ConfigMap {CONFIG_MAP}"
    config_map = reader.get(reader.own("configmaps", CONFIG_MAP))
    if config_map is None:
        needed = f"keys {', '.join(REQUIRED_SETTINGS)}"
        yield Finding(subject, "problem", "does not exist", needed, APPLY)
        return
    data = config_map.get("data") or {}
    missing = [key for key in REQUIRED_SETTINGS if not data.get(key)]
    if missing:
        seen = f"without {', '.join(missing)}"
        yield Finding(subject, "problem", seen, ", ".join(REQUIRED_SETTINGS), APPLY)
        return
    shown = [key for key in (*REQUIRED_SETTINGS, *OPTIONAL_SETTINGS) if key in data]
    yield Finding(subject, "ok", ", ".join(f"{key}={data[key]}" for key in shown))


def secrets(reader: ClusterReader) -> Iterator[Finding]:
    """The Secrets with credentials; only the names of their keys are looked at."""
    for name, keys in CREDENTIALS.items():
        subject = f"Secret {name}"
        secret = reader.get(reader.own("secrets", name))
        missing = [key for key in keys if key not in ((secret or {}).get("data") or {})]
        seen = "does not exist" if secret is None else f"without {', '.join(missing)}"
        if not missing:
            yield Finding(subject, "ok", f"keys {', '.join(keys)}")
        elif name == S3_SECRET and secret is None:
            advice = f"{SECRETS}, unless the pods have a cloud role"
            yield Finding(subject, "note", seen, "keys, or a cloud role of the account", advice)
        elif name == S3_SECRET:
            yield Finding(subject, "note", seen, ", ".join(keys), SECRETS)
        else:
            yield Finding(subject, "problem", seen, ", ".join(keys), SECRETS)


def volume(reader: ClusterReader) -> Iterator[Finding]:
    """The claim that `--work-volume` names, and whether several nodes can mount it."""
    name = reader.wanted.work_volume
    if not name:
        if reader.wanted.num_nodes > 1:
            yield Finding(
                "work volume", "problem", "none is named", "a volume that all nodes mount",
                "name its claim: --work-volume CLAIM",
            )  # fmt: skip
        return
    subject = f"work volume {name}"
    claim = reader.get(reader.own("persistentvolumeclaims", name))
    if claim is None:
        yield Finding(subject, "problem", "does not exist", f"the claim {name}", APPLY)
        return
    modes, phase = claim["spec"]["accessModes"], claim.get("status", {}).get("phase", "Pending")
    if phase == "Lost":
        yield Finding(subject, "problem", phase, "Bound", "see `kubectl describe pvc`")
    elif reader.wanted.num_nodes > 1 and "ReadWriteMany" not in modes:
        advice = "name a storage class that allows ReadWriteMany"
        yield Finding(subject, "problem", f"access {', '.join(modes)}", "ReadWriteMany", advice)
    elif phase != "Bound":
        advice = "normal where the first pod binds it; else see `kubectl describe pvc`"
        yield Finding(subject, "note", phase, "Bound when a pod mounts it", advice)
    else:
        yield Finding(subject, "ok", f"{phase}, {', '.join(modes)}")
