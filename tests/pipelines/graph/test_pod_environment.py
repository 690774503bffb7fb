"""A step started with exactly what its pod has, at a real MLflow server with roles."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pipelines.graph.package import Package, Variant, package
from product1m.config import load_config
from product1m.registry.roles import EXPERIMENT, PIPELINE
from tests.support.manifests.build import OVERLAYS, overlay
from tests.support.manifests.policies import Resource, of_kind
from tests.support.servers.mlflow_roles import server_with_roles
from tests.support.servers.mlflow_server import PASSWORDS, Server
from tests.support.servers.s3_server import running_server as running_s3
from tests.support.worlds.small_datasets import small_dataset
from tests.support.worlds.step_pod import StepPod, executor_input, step_pod

ONLY_IN_TESTS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES"}
"""Tests wait less than a pod for a server that is away."""
SECRETS = {
    ("product1m-mlflow", "MLFLOW_TRACKING_USERNAME"): PIPELINE,
    ("product1m-mlflow", "MLFLOW_TRACKING_PASSWORD"): PASSWORDS[PIPELINE],
}


@pytest.fixture(scope="module")
def server(mlflow_databases: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server_with_roles(tmp_path_factory.mktemp("server"), mlflow_databases) as started:
        yield started


@pytest.fixture(scope="module")
def made() -> Package:
    return package(Variant("sample"))


def at(server: Server, resources: list[Resource]) -> list[Resource]:
    """The manifests with the address of the test's server, and nothing else changed."""
    for config in of_kind(resources, "ConfigMap"):
        if config["metadata"]["name"] == "product1m":
            config["data"]["MLFLOW_TRACKING_URI"] = server.uri
    return resources


def ingestion_of(made: Package, resources: list[Resource]) -> StepPod:
    return step_pod(made, "exec-ingestion", resources, SECRETS)


def ingestion_input(dataset: str, folder: Path) -> dict[str, Any]:
    """What KFP's launcher passes an ingestion task."""
    config = load_config("sample").ingestion.model_dump(mode="json")
    outputs = dict.fromkeys(("train", "gallery", "queries"), "system.Dataset")
    parameters = {"dataset_uri": dataset, "dataset_digest": "abc", "config": config, "storage": {}}
    return executor_input(parameters, {**outputs, "metrics": "system.Metrics"}, folder)


def test_a_step_reads_s3_with_what_its_pod_has(
    server: Server, made: Package, tmp_path: Path
) -> None:
    small_dataset(tmp_path / "data", num_items=3)
    resources = at(server, overlay("local"))
    (tmp_path / "s3").mkdir()
    with running_s3(tmp_path / "s3") as s3:
        environment = s3.environment()
        for config in of_kind(resources, "ConfigMap"):
            if "AWS_ENDPOINT_URL" in config["data"]:
                config["data"]["AWS_ENDPOINT_URL"] = environment["AWS_ENDPOINT_URL"]
        keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        secrets = {**SECRETS, **{("product1m-s3", key): environment[key] for key in keys}}
        address = s3.copy(tmp_path / "data", "sample")
        pod = step_pod(made, "exec-ingestion", resources, secrets)
        done = pod.run(ingestion_input(address, tmp_path / "out"), tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "out" / "gallery").is_dir()


@pytest.mark.parametrize("name", OVERLAYS)
def test_a_step_may_log_with_what_its_pod_has(
    name: str, server: Server, made: Package, tmp_path: Path
) -> None:
    small_dataset(tmp_path / "data", num_items=3)
    given = ingestion_input(str(tmp_path / "data"), tmp_path / "out")
    done = ingestion_of(made, at(server, overlay(name))).run(given, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    written = json.loads((tmp_path / "out" / "output_metadata.json").read_text())
    assert written["artifacts"]["metrics"]["artifacts"][0]["metadata"]
    with server.as_user("admin"):
        client = MlflowClient(server.uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        found = client.search_runs([experiment.experiment_id])
    (parent,) = [
        candidate for candidate in found if candidate.info.run_name.startswith("pipeline ")
    ]
    run = next(candidate for candidate in found if candidate.info.run_name == "ingestion")
    assert (run.info.status, parent.info.status) == ("FINISHED", "RUNNING")
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert run.data.tags["pipeline_run"].startswith("c7677a3d")


def test_a_pod_has_all_that_the_tests_give_a_client(server: Server, made: Package) -> None:
    pod = ingestion_of(made, overlay("production")).environment
    tests = server.environment(PIPELINE)
    assert tests.keys() - pod.keys() == ONLY_IN_TESTS
    same = tests.keys() - ONLY_IN_TESTS - {"MLFLOW_TRACKING_URI"}
    assert {name: pod[name] for name in same} == {name: tests[name] for name in same}
