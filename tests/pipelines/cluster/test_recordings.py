"""Stories of recorded runs, and fakes that answer like the recordings."""

import json
import re
from typing import Any

import kfp_server_api as api
import pytest
from typer.testing import CliRunner

from pipelines.__main__ import app
from pipelines.cluster.api import Cluster
from pipelines.cluster.pods import latest_pod, pods_of
from pipelines.cluster.reconcile import run_prefix
from pipelines.cluster.submission import RunRequest, ensure_version, start_run
from pipelines.graph.package import Variant, package
from tests.support.servers.kfp_server import KfpServer
from tests.support.worlds.kfp_nodes import executor_name, make_pod, make_workflow
from tests.support.worlds.recordings import (
    RECORDINGS,
    all_pods,
    all_runs,
    all_workflows,
    node_story,
    recorded,
    recorded_pods,
    scenarios,
    shape,
)

TASKS = {"ingestion": "CACHED", "background-synthesis": "SUCCEEDED", "rpn-training": "SUCCEEDED"}
FRAMES = [
    ("RUNNING", {"ingestion": "CACHED", "background-synthesis": "RUNNING"}),
    ("RUNNING", TASKS | {"rpn-training": "RUNNING"}),
    ("FAILED", TASKS | {"rpn-training": "FAILED"}),
    ("SUCCEEDED", TASKS),
]
"""The states that tests let the fake go through."""


def _words(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def _replay(server: KfpServer, scenario: str) -> str:
    """Let the server answer with a recording and its log; the run's id."""
    run_id = server.world.replay(scenario)
    log = RECORDINGS / scenario / "log.txt"
    if log.is_file():
        server.world.pod_logs[recorded_pods(scenario)[0]["metadata"]["name"]] = log.read_text()
    return run_id


@pytest.mark.parametrize("scenario", scenarios())
def test_the_story_of_a_recorded_run_is_true(
    kfp_server: KfpServer, monkeypatch: pytest.MonkeyPatch, scenario: str
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shown = CliRunner().invoke(app, ["runs", "show", _replay(kfp_server, scenario)])
    assert shown.exit_code == 0, shown.output
    expected = (RECORDINGS / scenario / "story.txt").read_text("utf-8")
    assert _words(shown.output.replace(kfp_server.url, "http://kfp")) == _words(expected)


def _answers(server: KfpServer) -> list[Any]:
    """What the fake answers for a run that fails and is resumed, and for one that is stopped."""
    cluster, to_json = Cluster(server.url), api.ApiClient().sanitize_for_serialization
    version = ensure_version(cluster, package(Variant("sample")))

    def start(frames: list[tuple[str, dict[str, str]]]) -> str:
        server.world.frames = frames
        request = RunRequest({"dataset_uri": "s3://p1m/lists"})
        return str(start_run(cluster, version, request).run_id)

    failing = start(FRAMES[:3])
    answers = [to_json(server.world.get_run(failing)) for _ in range(3)]
    server.world.frames = FRAMES[3:]
    server.world.retry_run(failing)
    answers.append(to_json(server.world.get_run(failing)))
    stopped = start(FRAMES[:1])
    answers.append(to_json(server.world.get_run(stopped)))
    server.world.terminate_run(stopped)
    answers.append(to_json(server.world.get_run(stopped)))
    return [json.loads(json.dumps(answer)) for answer in answers]


def _stories(runs: list[Any]) -> set[Any]:
    details = [run.get("run_details", {}).get("task_details", []) for run in runs]
    return {node_story(detail) for entries in details for detail in entries}


def _histories(runs: list[Any]) -> set[tuple[str, ...]]:
    states = [[status.get("state") for status in run["state_history"]] for run in runs]
    return {tuple(state for state in entries if state) for entries in states}


def test_the_fake_answers_runs_with_fields_and_values_that_were_recorded(
    kfp_server: KfpServer,
) -> None:
    real = set().union(*(shape(run) for run in all_runs()))
    answered = set().union(*(shape(run) for run in _answers(kfp_server)))
    assert answered - real == set()


def test_the_fake_lists_and_runs_of_schedules_have_fields_that_were_recorded(
    kfp_server: KfpServer,
) -> None:
    world, to_json = kfp_server.world, api.ApiClient().sanitize_for_serialization
    assert to_json(world.list_schedules()) == {}, "as recorded where there was no schedule"
    cluster = Cluster(kfp_server.url)
    version = ensure_version(cluster, package(Variant("sample")))
    experiment = cluster.experiment_id("product1m-training")
    for name, listed in (
        ("experiments", world.list_experiments()),
        ("pipelines", world.list_pipelines()),
    ):
        assert shape(to_json(listed)) - shape(recorded("", name)) == set()
    schedule = world.create_schedule(
        api.V2beta1RecurringRun(
            display_name="every-two",
            experiment_id=experiment,
            pipeline_version_reference=version.reference,
            runtime_config=api.V2beta1RuntimeConfig(parameters={"dataset_uri": "s3://p1m/lists"}),
            trigger=api.V2beta1Trigger(cron_schedule=api.V2beta1CronSchedule(cron="0 */2 * * * *")),
            mode="ENABLE",
            max_concurrency="1",
        )
    )
    scheduled = [run for run in all_runs() if "recurring_run_id" in run]
    run = world.tick(schedule.recurring_run_id, "FAILED")
    assert shape(to_json(run)) - set().union(*map(shape, scheduled)) == set()
    names = [entry["display_name"] for entry in scheduled] + [run.display_name]
    pattern = rf"({run_prefix('every-two')}|{run_prefix('every30')})[a-z0-9]{{5}}-\d+-\d+"
    assert [name for name in names if not re.fullmatch(pattern, name)] == []


def test_the_fakes_nodes_go_through_states_that_were_recorded(kfp_server: KfpServer) -> None:
    assert _stories(_answers(kfp_server)) - _stories(all_runs()) == set()


def test_the_fakes_runs_go_through_states_that_were_recorded(kfp_server: KfpServer) -> None:
    real = {history[:length] for history in _histories(all_runs()) for length in range(1, 9)}
    assert _histories(_answers(kfp_server)) - real == set()


def test_the_fakes_pods_and_workflows_have_fields_that_were_recorded() -> None:
    times = {"startedAt": "2026-11-23T03:00:00Z", "finishedAt": "2026-11-23T03:01:00Z"}
    states: list[dict[str, Any]] = [
        {"running": {"startedAt": times["startedAt"]}},
        {"terminated": {"reason": "Error", "exitCode": 1, **times}},
        {"terminated": {"reason": "OOMKilled", "exitCode": 1, **times}},
        {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}},
    ]
    pods = set().union(*(shape(make_pod("run-1", "wf", "ingestion", state)) for state in states))
    assert pods - set().union(*map(shape, all_pods())) == set()
    node = executor_name("wf", "ingestion")
    workflow = shape(make_workflow("run-1", "wf", [(node, "Failed", "main: Error (exit code 1)")]))
    assert workflow - set().union(*map(shape, all_workflows())) == set()


def test_a_recorded_pod_belongs_to_its_task_and_says_why_it_waits(kfp_server: KfpServer) -> None:
    for path in (RECORDINGS / "pods").glob("*.json"):
        kfp_server.world.pods[path.stem] = json.loads(path.read_text("utf-8"))
    pods = pods_of("c7677a3d-5df9-46b5-95df-4910979588d9")
    starting, stuck = (latest_pod(pods, f"feature-extraction-{number}") for number in (2, 3))
    assert starting
    assert not starting.waiting
    assert stuck
    assert stuck.waiting.startswith("Unschedulable: 0/1 nodes are available: 1 Insufficient cpu.")
