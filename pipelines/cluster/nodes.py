"""Names of a run's Argo nodes, and which task an attempt belongs to.

KFP 2.17 wraps every template in a retry, so the pod of a task's first attempt is the node
`WORKFLOW(0).root(0).TASK(0).executor(0)`. The pipeline API lists nodes without their place in
that tree; it gives only the ids of a node's children, and an id is a hash of the node's name.
"""

import functools
import re
from collections.abc import Iterable, Mapping
from itertools import product

import kfp_server_api as api

EXECUTOR = "executor"
DRIVER = "-driver"
POD_TEMPLATE = "metadata-0-3-retry-system-container-impl"
"""KFP's template for a step with three labels and retries, as `pipelines.graph.resources` asks."""
_ATTEMPT = re.compile(r"\((\d+)\)$")
_EXECUTOR_NODE = re.compile(r"(?:^|\.)(?P<task>[^.()]+)(?:\(\d+\))?\.executor(?:\((?P<n>\d+)\))?$")
_DRIVER_NODE = re.compile(r"(?:^|\.)(?P<task>[^.()]+-driver)(?:\((?P<n>\d+)\))?$")
_MAX_OUTER_ATTEMPTS = 4
"""Attempts of the workflow, its root and a task that are looked for (ours; KFP allows 3)."""
_MAX_EXECUTOR_ATTEMPTS = 8


def node_id(workflow: str, name: str) -> str:
    """The id that Argo gives the node of a workflow: its name's FNV-1a hash (32 bits)."""
    if name == workflow:
        return workflow
    digest = 0x811C9DC5
    for byte in name.encode():
        digest = ((digest ^ byte) * 0x01000193) & 0xFFFFFFFF
    return f"{workflow}-{digest}"


def is_attempt(name: str) -> bool:
    """Whether a node is one try of another: `ingestion(0)` of `ingestion`."""
    return bool(_ATTEMPT.search(name))


def task_of(node_name: str) -> tuple[str, int]:
    """Task and attempt whose step a pod's node runs; a driver's node is a task of its own name.

    The task is empty for nodes that run neither.
    """
    match = _EXECUTOR_NODE.search(node_name) or _DRIVER_NODE.search(node_name)
    return (match["task"], int(match["n"] or 0)) if match else ("", 0)


def workflow_name(details: Iterable[api.V2beta1PipelineTaskDetail]) -> str:
    """Name of the run's workflow, from the ids of its nodes' children; empty if there are none."""
    for detail in details:
        for child in detail.child_tasks or ():
            if child.pod_name:
                return str(child.pod_name).rpartition("-")[0]
    return ""


@functools.lru_cache(maxsize=256)
def executor_ids(workflow: str, task: str, conditions: tuple[str, ...] = ()) -> Mapping[str, int]:
    """Ids that the pods of a task's step can have, with the attempt.

    The task is at the root of the graph, or below one of the conditions there.
    """
    outer = range(_MAX_OUTER_ATTEMPTS)
    places = [f"{workflow}({a}).root({b})" for a, b in product(outer, outer)]
    places += [f"{place}.{name}({c})" for place, name, c in product(places, conditions, outer)]
    return {
        node_id(workflow, f"{place}.{task}({c}).{EXECUTOR}({attempt})"): attempt
        for place, c, attempt in product(places, outer, range(_MAX_EXECUTOR_ATTEMPTS))
    }
