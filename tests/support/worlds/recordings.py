"""What real servers answered (tests/recordings), and the shape of an answer, to compare fakes with.

A shape is the set of all fields with the kind of their values; of fields that are enumerations it
holds the values themselves.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT

RECORDINGS = ROOT / "tests" / "recordings"
_FREE_KEYS = ("labels", "annotations", "parameters", "nodes", "entries", "tasks")
"""Fields that hold names of somebody's choice."""
_ENUMERATIONS = ("state", "phase", "type", "reason", "status", "storage_state", "mode", "kind")
Json = Any


def scenarios() -> list[str]:
    """Names of the recorded runs."""
    return sorted(path.parent.name for path in RECORDINGS.glob("*/run.json"))


def recorded(scenario: str, name: str) -> Json:
    """A recorded answer; None if the scenario has none of that name."""
    path = RECORDINGS / scenario / f"{name}.json"
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


def recorded_pods(scenario: str) -> list[Json]:
    """The pods of a scenario, in the states they were recorded in."""
    return [json.loads(path.read_text("utf-8")) for path in _pod_files(RECORDINGS / scenario)]


def all_pods() -> list[Json]:
    """Every recorded pod."""
    files = sorted(RECORDINGS.glob("*/pod-*.json"))
    return [json.loads(path.read_text("utf-8")) for path in files]


def all_runs() -> list[Json]:
    """Every recorded run."""
    return [recorded(scenario, "run") for scenario in scenarios()]


def all_workflows() -> list[Json]:
    """Every recorded workflow."""
    found = [recorded(scenario, "workflow") for scenario in scenarios()]
    return [workflow for workflow in found if workflow]


def shape(answer: Json) -> set[str]:
    """`run_details.task_details[].state=RUNNING`, `run_id: str`."""
    return set(_shape(answer, ""))


def node_kind(detail: Json) -> str:
    """What a task detail stands for: an execution, a retry, or one attempt of a pod or a DAG."""
    name = detail.get("display_name", "")
    if not name:
        return "execution"
    if not name.endswith(")"):
        return "omitted" if "state" not in detail else "retry"
    is_pod = name.startswith("executor") or "-driver" in name
    return "pod" if is_pod else "dag"


def node_story(detail: Json) -> tuple[str, str, tuple[str, ...], tuple[str, ...]]:
    """Kind, state, history and fields of a task detail."""
    history = tuple(status.get("state", "") for status in detail.get("state_history", ()))
    fields = tuple(sorted(set(detail) - {"child_tasks"}))
    return node_kind(detail), detail.get("state", ""), history, fields


def _pod_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("pod-*.json"))


def _shape(value: Json, place: str) -> Iterator[str]:
    if isinstance(value, dict):
        is_free = place.rpartition(".")[2] in _FREE_KEYS
        for key, item in value.items():
            yield from _shape(item, f"{place}.{'*' if is_free else key}".lstrip("."))
    elif isinstance(value, list):
        for item in value:
            yield from _shape(item, f"{place}[]")
    elif place.rpartition(".")[2] in _ENUMERATIONS:
        yield f"{place}={value}"
    else:
        yield f"{place}: {type(value).__name__}"
