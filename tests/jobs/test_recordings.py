"""The fake of Kubeflow Trainer answers like the recorded one."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers.kubernetes_api import kubernetes_api
from tests.support.worlds.recordings import RECORDINGS, shape
from tests.support.worlds.trainer_world import Node, TrainerWorld


def _recorded() -> dict[str, Any]:
    """State to the status of a recorded TrainJob."""
    files = (RECORDINGS / "trainer").glob("*.json")
    return {path.stem: json.loads(path.read_text("utf-8")) for path in files}


def _status(api: TrainerWorld, name: str, done: bool) -> Any:
    """The status of a job once it runs or has ended."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        status = api.jobs[name]["status"]
        if bool(status.get("conditions")) == done and status.get("jobsStatus"):
            return json.loads(json.dumps(status))
        time.sleep(0.01)
    pytest.fail(f"{name}: {api.jobs[name]['status']}")


@pytest.mark.parametrize(("state", "code"), [("running", None), ("complete", 0), ("failed", 1)])
def test_the_fakes_train_jobs_say_what_was_recorded(
    tmp_path: Path, state: str, code: int | None
) -> None:
    def run_node(node: Node) -> int:
        if code is None:
            node.stopped.wait(30)
        return code or 0

    recorded = _recorded()
    body = recorded[state]
    body = {key: body[key] for key in ("apiVersion", "kind", "spec")} | {
        "metadata": {"name": "job"}
    }
    with kubernetes_api(tmp_path, run_node) as api:
        api.max_restarts = 1
        api.deletion = "at once"  # nobody follows this job
        api.start(body)
        status = _status(api, "job", done=code is not None)
    assert (
        shape(status) - set().union(*(shape(job["status"]) for job in recorded.values())) == set()
    )
    if code is not None:
        (condition,) = status["conditions"]
        (expected,) = recorded[state]["status"]["conditions"]
        assert (condition["type"], condition["reason"]) == (expected["type"], expected["reason"])
