"""Whether the pods of a profile fit the nodes and the quota."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.cluster.doctor.cluster_reader import ClusterReader
from pipelines.cluster.doctor.finding import Finding
from pipelines.graph.resources import PROFILES, TRAINING_STEPS, Resources

_UNITS = {
    "": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40,
}  # fmt: skip


def quantity(text: object) -> float:
    """A Kubernetes quantity as a number; 0 if it is none."""
    match = re.fullmatch(r"([\d.]+)([a-zA-Z]*)", str(text))
    return float(match[1]) * _UNITS.get(match[2], 0.0) if match else 0.0


def nodes(reader: ClusterReader) -> Iterator[Finding]:
    """Whether the largest pods of the profile fit on a node, alone and beside what runs there."""
    listed = reader.items("/api/v1/nodes")
    free = [_free(node) for node in listed if not node["spec"].get("unschedulable")]
    pods = reader.items("/api/v1/pods")
    taken = {
        node["metadata"]["name"]: _requested(pods, node["metadata"]["name"]) for node in listed
    }
    left = [
        {key: size - taken[name].get(key, 0.0) for key, size in sizes.items()}
        for name, sizes in free
    ]
    subject, wanted = f"nodes for profile {reader.wanted.profile}", _largest(reader)
    needed = ", ".join(f"{key} {size}" for key, size in wanted.requests.items())
    largest = _describe([sizes for _, sizes in free])
    if not any(_fits(wanted, sizes) for _, sizes in free):
        advice = "choose a smaller profile: --profile laptop, or larger nodes"
        seen = f"no node is large enough; largest: {largest}"
        yield Finding(subject, "problem", seen, f"{needed} on one node", advice)
    elif not any(_fits(wanted, sizes) for sizes in left):
        seen = f"a node is large enough ({largest}), but other pods occupy it"
        advice = (
            "pods wait until there is room; stop what is not needed or choose a smaller profile"
        )
        yield Finding(subject, "note", seen, f"{needed} free on one node", advice)
    else:
        yield Finding(subject, "ok", f"{len(free)}, largest {largest}", needed)


def quota(reader: ClusterReader) -> Iterator[Finding]:
    """Whether a ResourceQuota leaves room for one pod of each size."""
    wanted = _largest(reader)
    count = reader.wanted.num_nodes
    for quota_object in reader.items(reader.own("resourcequotas")):
        name = f"quota {quota_object['metadata']['name']}"
        status = quota_object.get("status") or {}
        hard = status.get("hard") or quota_object["spec"].get("hard", {})
        used, short = status.get("used") or {}, []
        for key, size in wanted.requests.items():
            limit = hard.get(f"requests.{key}", hard.get(key))
            if limit is not None:
                left = quantity(limit) - quantity(used.get(f"requests.{key}", used.get(key, "0")))
                if quantity(size) * count > left:
                    short.append(f"{key}: {left:g} of {limit} left, needed {size} x {count}")
        if short:
            advice = "raise it in base/runs/limits.yaml, or wait"
            yield Finding(name, "problem", "; ".join(short), "room for a step", advice)
        else:
            yield Finding(name, "ok", ", ".join(f"{key} {value}" for key, value in hard.items()))


def _largest(reader: ClusterReader) -> Resources:
    """The largest pod of the profile, by GPUs and processors."""
    steps = PROFILES[reader.wanted.profile].items()
    chosen = [
        sizes for step, sizes in steps if reader.wanted.num_nodes == 1 or step in TRAINING_STEPS
    ]
    return max(chosen, key=lambda sizes: (sizes.gpus, quantity(sizes.requests["cpu"])))


def _free(node: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
    sizes = node["status"]["allocatable"]
    return node["metadata"]["name"], {key: quantity(value) for key, value in sizes.items()}


def _requested(pods: list[dict[str, Any]], node: str) -> dict[str, float]:
    """Resources requested by the pods on a node that have not ended."""
    total: dict[str, float] = {}
    for pod in pods:
        ended = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
        if pod["spec"].get("nodeName") == node and not ended:
            for container in pod["spec"]["containers"]:
                for key, value in container.get("resources", {}).get("requests", {}).items():
                    total[key] = total.get(key, 0.0) + quantity(value)
    return total


def _fits(wanted: Resources, sizes: Mapping[str, float]) -> bool:
    return all(quantity(size) <= sizes.get(key, 0.0) for key, size in wanted.requests.items())


def _describe(free: list[dict[str, float]]) -> str:
    if not free:
        return "none is ready for pods"
    best = max(free, key=lambda sizes: sizes.get("cpu", 0.0))
    gpus = {key: size for key, size in best.items() if "gpu" in key and size}
    shown = "".join(f", {key} {size:g}" for key, size in gpus.items())
    return f"cpu {best.get('cpu', 0.0):g}, memory {best.get('memory', 0.0) / 2**30:.1f}Gi{shown}"
