"""`check-cluster`: its cases against the pipeline API of the tests."""

import json
import os
from typing import Any

import pytest
from typer.testing import CliRunner

from pipelines.__main__ import app
from pipelines.cluster.api import Cluster
from pipelines.cluster.conformance import cases
from pipelines.cluster.conformance.bench import LITTLE_WORK, Bench, digests_in
from pipelines.cluster.conformance.report import run_cases
from pipelines.cluster.follow import Pace
from pipelines.graph.data import stated_parameters
from pipelines.graph.package import Variant
from pipelines.local.run import LocalRun
from product1m.errors import PipelineError
from tests.support.servers.kfp_server import KfpServer
from tests.support.worlds.kfp_nodes import make_pod

DATASET = "s3://product1m/sample"
TASKS = (
    "data-state", "ingestion", "background-synthesis", "rpn-training", "feature-extraction",
    "feature-extraction-2", "feature-extraction-3", "feature-extraction-4", "capture-pretraining",
    "indexing", "evaluation", "registration",
)  # fmt: skip
RUNNING = ("RUNNING", {"ingestion": "RUNNING"})
DONE = ("SUCCEEDED", dict.fromkeys(TASKS, "SUCCEEDED"))
CACHED = ("SUCCEEDED", dict.fromkeys(TASKS, "CACHED") | {"data-state": "SUCCEEDED"})


@pytest.fixture
def bench(kfp_server: KfpServer) -> Bench:
    return Bench(
        Cluster(kfp_server.url),
        Variant("sample", "laptop", overrides=LITTLE_WORK),
        stated_parameters(DATASET, "", "monday"),
        pace=Pace(poll_s=0.01, report_s=0.0, patience_s=0.5),
        max_start_s=2.0,
    )


def test_a_whole_run_is_followed_to_its_end(bench: Bench, kfp_server: KfpServer) -> None:
    kfp_server.world.frames = [RUNNING, DONE]
    assert cases.whole_run(bench) == f"12 tasks succeeded, run {bench.whole}"
    (run,) = kfp_server.world.runs.values()
    assert run.runtime_config.parameters["rpn_training"]["num_epochs"] == 1
    first = run.runtime_config.parameters["dataset_digest"]
    kfp_server.world.frames = [RUNNING, ("FAILED", {"ingestion": "FAILED"})]
    with pytest.raises(PipelineError, match="FAILED in ingestion"):
        cases.whole_run(bench)
    digests = [
        each.runtime_config.parameters["dataset_digest"] for each in kfp_server.world.runs.values()
    ]
    assert first not in digests[1:], "the cache would answer with the first check's result"


def test_a_second_run_must_come_from_the_cache(bench: Bench, kfp_server: KfpServer) -> None:
    kfp_server.world.frames = [RUNNING, DONE]
    cases.whole_run(bench)
    kfp_server.world.frames = [RUNNING, CACHED]
    assert cases.cached_run(bench).startswith("every task but data_state")
    whole, cached = (run.runtime_config.parameters for run in kfp_server.world.runs.values())
    assert whole == cached
    ran = {**CACHED[1], "indexing": "SUCCEEDED"}
    kfp_server.world.frames = [RUNNING, ("SUCCEEDED", ran)]
    with pytest.raises(PipelineError, match="ran again: data_state, indexing"):
        cases.cached_run(bench)


def test_a_failure_must_come_with_its_reason(
    bench: Bench, kfp_server: KfpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = kfp_server.world
    world.frames = [RUNNING, ("FAILED", {"ingestion": "FAILED"})]
    with pytest.raises(PipelineError, match="the reason does not name"):
        cases.failing_run(bench)
    create = world.create_run

    def create_with_pod(wanted: Any) -> Any:
        run = create(wanted)
        missing = run.runtime_config.parameters["dataset_uri"]
        error = {"level": "ERROR", "message": f"ingestion failed: {missing}: no such prefix"}
        ended = {"terminated": {"reason": "Error", "exitCode": 1}}
        workflow = f"product1m-training-{run.run_id}"
        pod = make_pod(run.run_id, workflow, "ingestion", ended, 0, 0)
        world.pods[pod["metadata"]["name"]] = pod
        world.pod_logs[pod["metadata"]["name"]] = json.dumps(error)
        return run

    monkeypatch.setattr(world, "create_run", create_with_pod)
    assert cases.failing_run(bench) == (
        f"ingestion: ingestion failed: {DATASET}-does-not-exist: no such prefix"
    )


def test_a_stopped_run_is_canceled_and_resumed(bench: Bench, kfp_server: KfpServer) -> None:
    kfp_server.world.frames = [RUNNING, RUNNING, RUNNING, DONE]
    assert cases.stopped_run(bench).startswith("CANCELED, then resumed to the end")
    assert kfp_server.asked(r"POST .*:terminate") == kfp_server.asked(r"POST .*:retry") == 1


@pytest.mark.parametrize(("number", "passes"), [(1, True), (2, False)])
def test_a_schedule_fires_one_run_at_a_time_and_is_removed(
    bench: Bench,
    kfp_server: KfpServer,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    passes: bool,
) -> None:
    world = kfp_server.world
    create = world.create_schedule

    def create_and_fire(wanted: Any) -> Any:
        schedule = create(wanted)
        for _ in range(number):
            world.tick(schedule.recurring_run_id)
        return schedule

    monkeypatch.setattr(world, "create_schedule", create_and_fire)
    monkeypatch.setattr(cases, "WATCH_S", 0.1)
    if passes:
        assert "at most 1 at once" in cases.scheduled_runs(bench)
    else:
        with pytest.raises(PipelineError, match="2 runs at once"):
            cases.scheduled_runs(bench)
    assert world.schedules == {}
    assert {run.state for run in world.runs.values()} == {"FAILED"}, "stopped"


def test_digests_are_compared_with_a_run_here_that_registers_nothing_elsewhere(
    bench: Bench, kfp_server: KfpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_here(request: LocalRun) -> None:
        assert os.environ["MLFLOW_TRACKING_URI"].startswith("sqlite:///")
        request.output.mkdir()
        lines = (
            "ingestion/train: /x in 1.0 s, digest 0123456789ab\nregistration: /y in 1 s, digest 1"
        )
        (request.output / "run.log").write_text(lines, "utf-8")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example.com")
    monkeypatch.setattr(cases, "run_training", run_here)
    kfp_server.world.frames = [RUNNING, DONE]
    cases.whole_run(bench)
    workflow = f"product1m-training-{bench.whole}"
    pod = make_pod(bench.whole, workflow, "ingestion", {"terminated": {"exitCode": 0}}, 0, 0)
    name = pod["metadata"]["name"]
    kfp_server.world.pods[name] = pod
    line = "ingestion/train: /minio/x/train in 9.0 s, digest 0123456789ab"
    kfp_server.world.pod_logs[name] = json.dumps({"level": "INFO", "message": line})
    assert cases.same_digests(bench) == "1 artifacts equal: ingestion/train"
    kfp_server.world.pod_logs[name] = json.dumps({"message": line.replace("0123", "ffff")})
    with pytest.raises(PipelineError, match="other digests than here: ingestion/train; "):
        cases.same_digests(bench)


def test_digests_are_read_from_what_steps_say() -> None:
    log = (
        "03:01:00 feature_extraction/train: /minio/x/features in 12.3 s, digest 0123456789ab\n"
        "03:02:00 indexing: 5 of 9\n"
        '{"message": "indexing: /minio/x/index in 0.4 s, digest ba9876543210"}\n'
    )
    assert digests_in(log) == {
        "feature_extraction/train": "0123456789ab",
        "indexing": "ba9876543210",
    }


def test_a_failed_case_does_not_hide_the_next_but_a_failed_whole_run_ends_it(
    bench: Bench,
) -> None:
    def fails(_: Bench) -> str:
        raise PipelineError("no")

    found = list(run_cases(bench, {"one": fails, "two": lambda _: "yes"}))
    assert [(result.passed, result.seen) for result in found] == [(False, "no"), (True, "yes")]
    assert len(list(run_cases(bench, {"whole run": fails, "two": fails}))) == 1


def test_the_command_prints_a_table_and_json(
    kfp_server: KfpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = {"whole run": lambda _: "11 tasks", "cache": lambda _: "all"}
    monkeypatch.setattr("pipelines.cluster.conformance.report.CASES", results)
    monkeypatch.setattr("pipelines.cluster.conformance.report.run_cases.__defaults__", (results,))
    data = stated_parameters(DATASET, "", "monday")
    monkeypatch.setattr("pipelines.cluster.submission.data_of", lambda *_: data)
    result = CliRunner().invoke(app, ["check-cluster", "--dataset", DATASET])
    assert result.exit_code == 0, result.output
    table, _, text = result.stdout.partition("{")
    assert table.splitlines()[0].startswith("ok      whole run")
    report = json.loads("{" + text)
    assert report["passed"] is True
    assert [case["case"] for case in report["cases"]] == ["whole run", "cache"]
