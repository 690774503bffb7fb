"""`submit` against a pipeline API on this machine: uploads, runs, faults, exit codes."""

import functools
import logging
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from pipelines.__main__ import app
from pipelines.cluster.api import Cluster, ClusterError, UnreachableError, create_once
from pipelines.cluster.follow import LostError, follow
from pipelines.cluster.submission import RunRequest, ensure_version, start_run
from pipelines.graph.data import data_parameters
from pipelines.graph.package import Package, Variant, package
from product1m.config import load_config
from tests.pipelines.cluster.conftest import FAST
from tests.support.servers.kfp_server import KfpServer
from tests.support.worlds.small_datasets import small_dataset

DATA = {"dataset_uri": "s3://p1m/lists", "dataset_digest": "monday", "backgrounds_uri": ""}
RUNS = "/apis/v2beta1/runs"
UPLOAD = "/apis/v2beta1/pipelines/upload_version"


@pytest.fixture
def server(kfp_server: KfpServer) -> KfpServer:
    return kfp_server


def submit(*arguments: str) -> Result:
    common = ["submit", "--preset", "sample", "--dataset", "s3://p1m/lists", "--no-cache"]
    return CliRunner().invoke(app, [*common, *arguments])


@functools.cache
def compiled() -> Package:
    return package(Variant("sample"))


def started(server: KfpServer) -> Any:
    """A submitted run."""
    cluster = Cluster(server.url)
    version = ensure_version(cluster, compiled())
    return start_run(cluster, version, RunRequest(DATA))


def test_a_new_version_is_uploaded_once_and_runs_are_pinned_to_it(server: KfpServer) -> None:
    first, second = submit("--no-follow"), submit("--no-follow")
    assert first.exit_code == second.exit_code == 0, first.output + second.output
    (version,) = server.world.versions.values()
    assert server.asked(f"POST {UPLOAD}") == 1
    made = package(Variant("sample", cache=False))
    assert version.name == version.display_name == made.version
    spec, platform = yaml.safe_load_all(made.text)
    assert version.pipeline_spec == {"pipeline_spec": spec, "platform_spec": platform}
    pinned = {
        run.pipeline_version_reference.pipeline_version_id for run in server.world.runs.values()
    }
    assert pinned == {version.pipeline_version_id}
    assert len(server.world.runs) == 2
    for run_id in server.world.runs:
        assert f"{server.url}/#/runs/details/{run_id}" in first.output + second.output


def test_a_run_is_given_data_and_only_the_sections_that_differ(server: KfpServer) -> None:
    result = submit(
        "--set", "indexing.factory=HNSW32", "--backgrounds", "s3://p1m/rooms", "--dataset-digest",
        "monday", "--experiment", "nightly", "--name", "by hand", "--service-account", "runner",
        "--pipeline-root", "s3://p1m/root", "--no-follow",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    (run,) = server.world.runs.values()
    (experiment,) = server.world.experiments.values()
    section = load_config("sample", ["indexing.factory=HNSW32"]).indexing.model_dump(mode="json")
    assert run.runtime_config.parameters == {
        "dataset_uri": "s3://p1m/lists",
        "dataset_digest": "monday",
        "backgrounds_uri": "s3://p1m/rooms",
        "backgrounds_digest": "monday",
        "indexing": section,
    }
    assert run.runtime_config.pipeline_root == "s3://p1m/root"
    assert (run.display_name, run.service_account) == ("by hand", "runner")
    assert run.experiment_id == experiment.experiment_id
    assert experiment.display_name == "nightly"


def test_where_the_cache_may_answer_the_data_is_checked_and_its_state_left_to_the_run(
    server: KfpServer, tmp_path: Path
) -> None:
    data = small_dataset(tmp_path / "data")
    arguments = ["submit", "--preset", "sample", "--no-follow", "--dataset"]
    assert CliRunner().invoke(app, [*arguments, str(data)]).exit_code == 0
    (run,) = server.world.runs.values()
    expected = data_parameters(str(data))
    assert run.runtime_config.parameters == expected
    assert expected["dataset_digest"] == "", "the run's first task computes it"
    result = CliRunner().invoke(app, [*arguments, "/nowhere/on/this/machine"])
    assert result.exit_code == 1
    assert "no such folder" in result.output
    assert "--dataset-digest" in result.output


def test_the_exit_code_is_the_runs_state(server: KfpServer) -> None:
    for state, code in (("SUCCEEDED", 0), ("FAILED", 1)):
        server.world.frames = [("RUNNING", {}), (state, {})]
        run = started(server)
        assert CliRunner().invoke(app, ["runs", "follow", run.run_id]).exit_code == code
    assert submit().exit_code == 1


def test_a_run_is_followed_task_by_task(
    server: KfpServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.world.frames = [
        ("RUNNING", {"ingestion": "RUNNING"}),
        ("RUNNING", {"ingestion": "CACHED", "background-synthesis": "RUNNING"}),
        ("SUCCEEDED", {"ingestion": "CACHED", "background-synthesis": "SUCCEEDED"}),
    ]
    run = started(server)
    with caplog.at_level(logging.INFO, "pipelines"):
        assert follow(Cluster(server.url), run.run_id, FAST).state == "SUCCEEDED"
    messages = [
        record.getMessage()
        for record in caplog.records
        if record.name == "pipelines.cluster.follow"
    ]
    assert messages == [
        "ingestion: RUNNING",
        "RUNNING, 0 of 12 tasks done, running: ingestion",
        "ingestion: CACHED",
        "background_synthesis: RUNNING",
        "RUNNING, 1 of 12 tasks done, running: background_synthesis",
        "background_synthesis: SUCCEEDED after 60 s",
    ]


def test_a_task_can_run_although_the_cache_has_its_result(server: KfpServer) -> None:
    arguments = ["submit", "--preset", "sample", "--dataset", "s3://p1m/lists", "--no-follow"]
    rerun = ["--dataset-digest", "monday", "--rerun", "feature_extraction/gallery"]
    assert CliRunner().invoke(app, [*arguments, *rerun]).exit_code == 0
    (version,) = server.world.versions.values()
    tasks = version.pipeline_spec["pipeline_spec"]["root"]["dag"]["tasks"]
    uncached = [key for key, task in tasks.items() if not task["cachingOptions"].get("enableCache")]
    assert uncached == ["data-state", "feature-extraction-3"]
    result = CliRunner().invoke(app, [*arguments, "--dataset-digest", "m", "--rerun", "serving"])
    assert result.exit_code == 1
    assert "--rerun serving: no such task; expected background_synthesis, " in result.output


def test_following_goes_on_after_a_lost_connection(
    server: KfpServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pipelines.cluster.api.NUM_RETRIES", 0)
    run = started(server)
    server.world.frames = [("RUNNING", {}), ("RUNNING", {}), ("SUCCEEDED", {})]
    server.fault("GET", f"{RUNS}/", "reset", times=2)
    server.fault("GET", f"{RUNS}/", "503", times=2)
    with caplog.at_level(logging.INFO, "pipelines"):
        ended = follow(Cluster(server.url), run.run_id, FAST)
    assert ended.state == "SUCCEEDED"
    assert "the cluster answers again" in caplog.text


def test_a_cluster_that_stays_away_ends_the_command_and_not_the_run(
    server: KfpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.cluster.api.NUM_RETRIES", 0)
    run = started(server)
    server.fault("GET", f"{RUNS}/", "503", times=10_000)
    with pytest.raises(
        LostError, match=f"continues .*`python -m pipelines runs follow {run.run_id}`"
    ):
        follow(Cluster(server.url), run.run_id, FAST)
    assert server.world.runs[run.run_id].state == "PENDING"
    result = CliRunner().invoke(app, ["runs", "follow", run.run_id])
    assert result.exit_code == 4
    server.faults.clear()
    assert CliRunner().invoke(app, ["runs", "follow", run.run_id]).exit_code == 0


@pytest.mark.parametrize("kind", ["500", "503", "429", "reset"])
def test_reading_is_tried_again(server: KfpServer, kind: str) -> None:
    server.fault("GET", "/apis/v2beta1/pipelines", kind, times=2)
    assert started(server).run_id in server.world.runs


@pytest.mark.parametrize("path", [RUNS, UPLOAD, "/apis/v2beta1/experiments", "/pipelines"])
@pytest.mark.parametrize("kind", ["lost", "500", "reset"])
def test_what_is_created_is_created_once_whatever_the_answer(
    server: KfpServer, path: str, kind: str
) -> None:
    server.fault("POST", f"{path}$", kind)
    run = started(server)
    assert list(server.world.runs) == [run.run_id]
    assert len(server.world.versions) == len(server.world.pipelines) == 1
    assert len(server.world.experiments) == 1


def test_an_answer_that_never_comes_is_given_up(
    server: KfpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.cluster.api.READ_TIMEOUT_S", 0.1)
    monkeypatch.setattr("pipelines.cluster.api.NUM_RETRIES", 1)
    server.fault("GET", "/pipelines", "200", times=5, seconds=0.4)
    with pytest.raises(
        UnreachableError, match=r"listing pipelines at http.*: no answer: .*timed out"
    ):
        started(server)


def test_a_run_that_started_without_an_answer_in_time_is_found(
    server: KfpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(server.url)
    version = ensure_version(cluster, compiled())
    cluster.experiment_id("product1m-training")
    monkeypatch.setattr("pipelines.cluster.api.READ_TIMEOUT_S", 0.15)
    monkeypatch.setattr("pipelines.cluster.api.BACKOFF_S", 0.3)
    server.fault("POST", f"{RUNS}$", "slow", seconds=0.3)
    run = start_run(cluster, version, RunRequest(DATA))
    assert list(server.world.runs) == [run.run_id]


def test_a_version_that_somebody_uploads_at_the_same_time_is_taken(server: KfpServer) -> None:
    cluster, made = Cluster(server.url), compiled()
    other = ensure_version(cluster, made)
    # As if it had come between the look and the upload: the listing misses it once.
    kept = dict(server.world.versions)
    server.world.versions.clear()
    listed = server.world.list_versions

    def late(pipeline_id: str, **query: str) -> Any:
        answer = listed(pipeline_id, **query)
        server.world.versions.update(kept)
        return answer

    server.world.list_versions = late  # type: ignore[method-assign]
    assert ensure_version(cluster, made).version_id == other.version_id
    assert server.asked(f"POST {UPLOAD}") == 2


def test_a_conflict_that_nothing_explains_is_an_error(server: KfpServer) -> None:
    server.fault("POST", f"{RUNS}$", "409")
    with pytest.raises(ClusterError, match=r"starting a run at .*: 409 .*: injected 409"):
        started(server)


def test_without_a_valid_token_the_error_says_what_to_do(
    server: KfpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.token = "fresh"
    result = submit("--no-follow")
    assert result.exit_code == 1
    assert "401" in result.output
    assert "$KF_PIPELINES_SA_TOKEN_PATH" in result.output
    assert server.asked("GET .*") == 1, "asking again with the same token is useless"
    token = tmp_path / "token"
    token.write_text("stale")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(token))
    assert submit("--no-follow").exit_code == 1
    token.write_text("fresh")
    assert submit("--no-follow").exit_code == 0


def test_a_cluster_that_is_not_there_is_named(
    server: KfpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.cluster.api.NUM_RETRIES", 1)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    result = submit("--no-follow", "--endpoint", url)
    assert result.exit_code == 1
    assert f"at {url}: no answer: " in result.output
    assert "--endpoint" in result.output


def test_a_mistyped_key_stops_before_the_cluster_is_asked(server: KfpServer) -> None:
    result = submit("--set", "indexing.probe=1")
    assert result.exit_code == 2
    assert server.requests == []


def test_a_parameter_the_version_does_not_know_is_refused_with_the_servers_reason(
    server: KfpServer,
) -> None:
    cluster = Cluster(server.url)
    version = ensure_version(cluster, compiled())
    with pytest.raises(ClusterError, match=r"400 .*parameters unknown: .*speed"):
        start_run(cluster, version, RunRequest({**DATA, "speed": 1}))


def test_creating_gives_up_when_nothing_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.cluster.api.BACKOFF_S", 0.0)
    tried = []

    def create() -> str:
        tried.append("once more")
        raise UnreachableError("away")

    with pytest.raises(UnreachableError, match="away"):
        create_once(create, lambda: None)
    assert len(tried) == 5
