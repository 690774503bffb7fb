"""`doctor --probe`: its pods run against real MLflow and S3 servers with a step's environment."""

from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pipelines.cluster.doctor import probe as doctor_probe
from pipelines.cluster.doctor.cluster_reader import ClusterReader, Wanted
from pipelines.cluster.doctor.finding import Finding
from pipelines.cluster.doctor.probe import Probe, closed_pod, probe, step_pod
from product1m.config import STEPS
from product1m.registry.roles import EXPERIMENT, PIPELINE
from tests.support.servers.kubernetes_objects import Objects, serving_objects
from tests.support.servers.mlflow_roles import server_with_roles
from tests.support.servers.mlflow_server import PASSWORDS, Server
from tests.support.servers.s3_server import BUCKET, S3Server
from tests.support.servers.s3_server import running_server as running_s3
from tests.support.worlds.healthy_cluster import SYSTEM, fill

CORE = f"/api/v1/namespaces/{SYSTEM}"
IMAGES = {step: f"registry.example/product1m/{step.replace('_', '-')}:1" for step in STEPS}
WANTED = Wanted(SYSTEM, "product1m-runs", "laptop")


@pytest.fixture(scope="module")
def mlflow_server(
    mlflow_databases: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with server_with_roles(tmp_path_factory.mktemp("mlflow"), mlflow_databases) as started:
        yield started


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3")) as started:
        yield started


def encoded(**values: str) -> dict[str, Any]:
    return {"data": {key: b64encode(value.encode()).decode() for key, value in values.items()}}


@pytest.fixture
def cluster(
    mlflow_server: Server, s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Objects]:
    environment = s3.environment()
    with serving_objects() as objects:
        fill(objects)
        settings = objects.by_path[f"{CORE}/configmaps/product1m"]["data"]
        settings["MLFLOW_TRACKING_URI"] = mlflow_server.uri
        settings["AWS_ENDPOINT_URL"] = environment["AWS_ENDPOINT_URL"]
        objects.by_path[f"{CORE}/secrets/product1m-mlflow"] = encoded(
            MLFLOW_TRACKING_USERNAME=PIPELINE, MLFLOW_TRACKING_PASSWORD=PASSWORDS[PIPELINE]
        )
        objects.by_path[f"{CORE}/secrets/product1m-s3"] = encoded(
            AWS_ACCESS_KEY_ID=environment["AWS_ACCESS_KEY_ID"],
            AWS_SECRET_ACCESS_KEY=environment["AWS_SECRET_ACCESS_KEY"],
        )
        monkeypatch.setattr(
            "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION",
            str(objects.kubeconfig(tmp_path)),
        )
        monkeypatch.setattr(doctor_probe, "POLL_S", 0.0)
        yield objects


def probed(bucket: str = BUCKET) -> dict[str, Finding]:
    return {
        found.subject: found for found in probe(ClusterReader(WANTED), Probe(IMAGES, bucket, 60.0))
    }


def test_the_probe_writes_and_reads_where_a_step_would(
    cluster: Objects, mlflow_server: Server, s3: S3Server
) -> None:
    found = probed()
    levels = {subject: finding.level for subject, finding in found.items()}
    assert levels == {
        "images": "ok",
        "MLflow writes": "ok",
        "MLflow artifacts": "ok",
        "S3 conditional put": "ok",
        "S3 listing": "ok",
        "S3 life cycle": "note",
        "network policies": "note",  # nothing polices a process of this machine
    }
    assert f"may write to {EXPERIMENT}" in found["MLflow writes"].seen
    assert not [path for path in cluster.by_path if "/pods/" in path]
    assert s3.keys(".product1m-doctor") == []
    with mlflow_server.as_user("admin"):
        client = MlflowClient(mlflow_server.uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        runs = client.search_runs([experiment.experiment_id])
    assert [run.info.run_name for run in runs] == ["doctor"], "the account may not delete it"


def test_an_account_that_may_not_write_the_experiment_is_a_problem(
    cluster: Objects, mlflow_server: Server
) -> None:
    with mlflow_server.as_user("admin"):
        MlflowClient(mlflow_server.uri).create_experiment("somebody-elses")
    settings = cluster.by_path[f"{CORE}/configmaps/product1m"]["data"]
    settings["MLFLOW_EXPERIMENT_NAME"] = "somebody-elses"
    refused = probed()["MLflow writes"]
    assert refused.level == "problem"
    assert PIPELINE in refused.seen
    assert "logs job/mlflow-roles" in refused.advice


def test_a_bucket_that_is_not_there_is_a_problem(cluster: Objects) -> None:
    found = probed("nowhere")["S3"]
    assert found.level == "problem"
    assert "NoSuchBucket" in found.seen


def test_an_image_that_cannot_be_pulled_is_reported_at_once(cluster: Objects) -> None:
    cluster.waiting = {"reason": "ErrImagePull", "message": "not found"}
    found = probed()["images"]
    assert (found.level, "ErrImagePull not found" in found.seen) == ("problem", True)
    assert not [path for path in cluster.by_path if "/pods/" in path]


def test_mlflow_out_of_reach_of_a_stranger_means_that_policies_hold(cluster: Objects) -> None:
    settings = cluster.by_path[f"{CORE}/configmaps/product1m"]["data"]
    settings["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"
    found = probed()["network policies"]
    assert found.level == "ok"


def test_the_pods_are_like_a_steps_but_the_closed_one_bears_no_label(cluster: Objects) -> None:
    reader, wanted = ClusterReader(WANTED), Probe(IMAGES, BUCKET)
    step, closed = step_pod(reader, wanted, "step"), closed_pod(reader, wanted, "closed")
    pulled = {container["image"] for container in step["spec"]["initContainers"]}
    assert pulled | {step["spec"]["containers"][0]["image"]} == set(IMAGES.values())
    assert step["metadata"]["labels"]["app.kubernetes.io/name"] == "product1m"
    assert "app.kubernetes.io/name" not in closed["metadata"]["labels"]
    assert "PASSWORD" not in str(closed["spec"]["containers"][0]["env"])
    for pod in (step, closed):
        assert pod["spec"]["serviceAccountName"] == "product1m-runs"
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
