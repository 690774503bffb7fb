"""`doctor`: what stops a run is a problem with advice, and nothing is changed."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pipelines.__main__ import app
from pipelines.cluster.doctor.sizes import quantity
from pipelines.cluster.doctor.tried_versions import compared
from tests.support.servers.kfp_server import KfpServer
from tests.support.servers.kubernetes_objects import Objects, serving_objects
from tests.support.worlds.healthy_cluster import SYSTEM, deployment, fill, listed, named

CORE = f"/api/v1/namespaces/{SYSTEM}"
APPS = f"/apis/apps/v1/namespaces/{SYSTEM}/deployments"
RUNTIME = "/apis/trainer.kubeflow.org/v1alpha1/clustertrainingruntimes/product1m-torch"


@pytest.fixture
def cluster(
    kfp_server: KfpServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Objects]:
    """A healthy cluster; its pipeline API is `kfp_server`."""
    with serving_objects() as objects:
        fill(objects)
        monkeypatch.setattr(
            "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION",
            str(objects.kubeconfig(tmp_path)),
        )
        yield objects


def doctor(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *arguments], catch_exceptions=False)


def findings(*arguments: str) -> dict[str, dict[str, Any]]:
    """Subject to finding."""
    found = json.loads(doctor("--json", *arguments).output)["findings"]
    return {finding["subject"]: finding for finding in found}


def problems(*arguments: str) -> dict[str, str]:
    """Subject to what was seen, of what stops a run; each says what is needed and what to do."""
    found = [finding for finding in findings(*arguments).values() if finding["level"] == "problem"]
    assert all(finding["needed"] and finding["advice"] for finding in found)
    return {finding["subject"]: finding["seen"] for finding in found}


def test_a_healthy_cluster_has_no_problem_and_is_left_as_it_was(cluster: Objects) -> None:
    result = doctor()
    assert result.exit_code == 0, result.output
    assert "nothing found that would stop a run" in result.output
    assert "Kubernetes: version 1.34.4" in result.output
    assert "MLFLOW_EXPERIMENT_NAME=product1m-training" in result.output
    assert {request.split()[0] for request in cluster.requests} == {"GET"}


def test_kfps_own_retry_policy_is_noted_with_what_it_means(cluster: Objects) -> None:
    found = findings()["retries"]
    assert found["level"] == "note"
    assert found["seen"].startswith("OnError: a deleted or lost pod is started again")
    assert "retryPolicy: Always" in found["advice"]
    path = f"{CORE}/configmaps/workflow-controller-configmap"
    changed = cluster.by_path[path]["data"]["workflowDefaults"].replace("OnError", "Always")
    cluster.by_path[path]["data"]["workflowDefaults"] = changed
    assert findings()["retries"]["level"] == "ok"


def without(path: str) -> Callable[[Objects], None]:
    def remove(objects: Objects) -> None:
        del objects.by_path[path]

    return remove


def without_key(path: str, key: str) -> Callable[[Objects], None]:
    def remove(objects: Objects) -> None:
        del objects.by_path[path]["data"][key]

    return remove


def old_pipelines(objects: Objects) -> None:
    image = "ghcr.io/kubeflow/kfp-api-server:2.14.3"
    objects.by_path[f"{APPS}/ml-pipeline"] = deployment(image)


def small_node(objects: Objects) -> None:
    node = objects.by_path["/api/v1/nodes"]["items"][0]
    node["status"]["allocatable"] = {"cpu": "50m", "memory": "1Gi"}


@pytest.mark.parametrize(
    ("change", "subject", "seen"),
    [
        (without(f"{CORE}/serviceaccounts/product1m-runs"), "service account", "does not exist"),
        (without(f"{CORE}/configmaps/product1m"), "ConfigMap product1m", "does not exist"),
        (
            without_key(f"{CORE}/configmaps/product1m", "MLFLOW_EXPERIMENT_NAME"),
            "ConfigMap product1m",
            "without MLFLOW_EXPERIMENT_NAME",
        ),
        (
            without_key(f"{CORE}/secrets/product1m-mlflow", "MLFLOW_TRACKING_PASSWORD"),
            "Secret product1m-mlflow",
            "without MLFLOW_TRACKING_PASSWORD",
        ),
        (old_pipelines, "Kubeflow Pipelines", "version 2.14.3"),
        (
            without(f"{APPS}/workflow-controller"),
            "Argo Workflows",
            "no deployment workflow-controller in kubeflow",
        ),
        (
            small_node,
            "nodes for profile laptop",
            "no node is large enough; largest: cpu 0.05, memory 1.0Gi",
        ),
    ],
)
def test_what_stops_a_run_is_a_problem(
    cluster: Objects, change: Callable[[Objects], None], subject: str, seen: str
) -> None:
    change(cluster)
    assert problems() == {subject: seen}
    assert doctor().exit_code == 1


def test_a_profile_is_compared_with_the_nodes_and_with_the_quota(cluster: Objects) -> None:
    assert problems("--profile", "cpu-small") == {}
    assert set(problems("--profile", "gpu-8")) == {"nodes for profile gpu-8"}
    quota = cluster.by_path[f"{CORE}/resourcequotas"]["items"][0]["status"]
    quota["used"] = {"requests.nvidia.com/gpu": "12"}
    (seen,) = (
        seen for subject, seen in problems("--profile", "gpu-8").items() if "quota" in subject
    )
    assert seen == "nvidia.com/gpu: 4 of 16 left, needed 8 x 1"


def test_pods_that_occupy_a_node_are_noted(cluster: Objects) -> None:
    busy = {"name": "main", "resources": {"requests": {"cpu": "3", "memory": "1Gi"}}}
    running = {"spec": {"nodeName": "node", "containers": [busy]}, "status": {"phase": "Running"}}
    done = {**running, "status": {"phase": "Succeeded"}}
    cluster.by_path["/api/v1/pods"] = listed(done)
    assert findings("--profile", "cpu-small")["nodes for profile cpu-small"]["level"] == "ok"
    cluster.by_path["/api/v1/pods"] = listed(running, done)
    found = findings("--profile", "cpu-small")["nodes for profile cpu-small"]
    assert found["level"] == "note"
    assert "other pods occupy it" in found["seen"]


def test_several_nodes_need_trainer_a_volume_and_a_runtime_without_gpus(cluster: Objects) -> None:
    several = ["--num-nodes", "2"]
    assert problems(*several) == {"work volume": "none is named"}
    several += ["--work-volume", "product1m-work"]
    assert problems(*several) == {}
    cluster.by_path[f"{CORE}/persistentvolumeclaims/product1m-work"]["spec"]["accessModes"] = [
        "ReadWriteOnce"
    ]
    assert problems(*several) == {"work volume product1m-work": "access ReadWriteOnce"}
    spec = cluster.by_path[RUNTIME]["spec"]["template"]["spec"]["replicatedJobs"][0]
    container = spec["template"]["spec"]["template"]["spec"]["containers"][0]
    container["resources"]["limits"]["nvidia.com/gpu"] = 8
    assert findings()["runtime product1m-torch"]["seen"] == "requests nvidia.com/gpu itself"
    del cluster.by_path[RUNTIME]
    assert problems() == {}, "one node does without Trainer"
    assert "runtime product1m-torch" in problems(*several)


def test_what_may_not_be_read_is_unknown_and_stops_nothing(cluster: Objects) -> None:
    cluster.hidden |= {"/api/v1/nodes", f"{CORE}/secrets/product1m-mlflow"}
    found = findings()
    assert found["nodes"]["level"] == found["secrets"]["level"] == "unknown"
    assert "403" in found["nodes"]["seen"]
    assert found["quota gpus"]["level"] == "ok", "the other checks go on"
    assert doctor().exit_code == 0


def test_other_time_zones_and_unenforced_policies_are_noted(cluster: Objects) -> None:
    path = f"{APPS}/ml-pipeline-scheduledworkflow"
    cluster.by_path[path] = deployment("scheduler:2.17.0", CRON_SCHEDULE_TIMEZONE="Asia/Shanghai")
    daemons = "/apis/apps/v1/namespaces/kube-system/daemonsets"
    cluster.by_path[daemons] = listed(named("kube-flannel-ds"))
    found = findings()
    assert found["time zone"]["seen"] == "Asia/Shanghai"
    assert "timezone: Asia/Shanghai" in found["time zone"]["advice"]
    assert found["network policies"]["level"] == "note"


def test_a_pipeline_api_that_does_not_answer_is_a_problem(
    cluster: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.cluster.api.NUM_RETRIES", 0)
    (subject,) = problems("--endpoint", "http://127.0.0.1:9")
    assert subject == "pipeline API"


@pytest.mark.parametrize(
    ("text", "value"),
    [("250m", 0.25), ("8025556Ki", 8025556 * 1024.0), ("6Gi", 6 * 2.0**30), ("2", 2.0), ("?", 0.0)],
)
def test_quantities_are_read_as_kubernetes_means_them(text: str, value: float) -> None:
    assert quantity(text) == value


@pytest.mark.parametrize(
    ("version", "level"),
    [("2.17.0", "ok"), ("2.18.1", "note"), ("2.16.9", "problem"), ("", "unknown")],
)
def test_versions_are_compared_with_those_that_were_tried(version: str, level: str) -> None:
    assert compared("Kubeflow Pipelines", version).level == level
