import base64
import json
import re
from functools import cache
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubeflow_trainer_api import models

from components.images import image
from product1m.cli.app import app
from product1m.config import STEPS
from tests.support.manifests.build import (
    MANIFESTS,
    OVERLAYS,
    RUNS,
    build,
    documented_secrets,
    overlay,
    run,
    why_no_kustomize,
)
from tests.support.manifests.policies import Resource, namespace_of, of_kind, pod_templates
from tests.support.manifests.references import (
    Reference,
    existing,
    references,
    volumes_without_source,
)

KUBERNETES = "1.32"
"""The oldest version that the manifests are for."""
ELSEWHERE = {
    "ClusterTrainingRuntime": models.TrainerV1alpha1ClusterTrainingRuntime,
    "TrainJob": models.TrainerV1alpha1TrainJob,
}
"""Kinds that Kubernetes has no schema of, and the published models of their project."""


def _unknown_fields(given: Any, understood: Any, path: str = "") -> list[str]:
    """Where a document says more than what a model kept of it."""
    if isinstance(given, dict) and isinstance(understood, dict):
        return [
            finding
            for key, value in given.items()
            for finding in (
                _unknown_fields(value, understood[key], f"{path}.{key}")
                if key in understood
                else [f"{path}.{key}"]
            )
        ]
    if isinstance(given, list):
        pairs = enumerate(zip(given, understood, strict=True))
        return [
            f
            for i, (first, second) in pairs
            for f in _unknown_fields(first, second, f"{path}[{i}]")
        ]
    return []


def check_schema(resource: Resource) -> None:
    if model := ELSEWHERE.get(resource["kind"]):
        understood = json.loads(model.from_dict(resource).to_json())
        assert not _unknown_fields(resource, understood)
        return
    for version in (KUBERNETES, kubernetes_validate.latest_version()):
        kubernetes_validate.validate(resource, version, strict=True)


FOLDERS = [
    "overlays/local",
    "overlays/production",
    "examples",
    "serving/local",
    "serving/production",
]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_resource_has_the_fields_of_its_schema_and_no_others(folder: str) -> None:
    found = build(folder)
    for resource in found:
        check_schema(resource)
    names = [(r["kind"], namespace_of(r), r["metadata"]["name"]) for r in found]
    assert len(names) == len(set(names))


def test_a_mistyped_field_does_not_pass() -> None:
    deployment = of_kind(overlay("local"), "Deployment")[0]
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    container["readinesProbe"] = container.pop("readinessProbe")
    with pytest.raises(kubernetes_validate.ValidationError, match="readinesProbe"):
        check_schema(deployment)


@pytest.mark.parametrize(
    ("kind", "path", "key"),
    [
        ("TrainJob", ("spec", "trainer"), "gpusPerNode"),
        ("ClusterTrainingRuntime", ("spec", "mlPolicy", "torch"), "numProcPerNode"),
    ],
)
def test_a_field_that_trainer_does_not_have_is_found(
    kind: str, path: tuple[str, ...], key: str
) -> None:
    (resource,) = of_kind(build("examples") + overlay("production"), kind)
    place = resource
    for part in path:
        place = place[part]
    place[key] = 8
    with pytest.raises(AssertionError, match=key):
        check_schema(resource)


@pytest.mark.parametrize("name", OVERLAYS)
def test_what_manifests_refer_to_is_there_or_documented_as_to_be_made(name: str) -> None:
    resources = overlay(name)
    present = existing(resources) | documented_secrets(name)
    missing = [
        (owner, reference)
        for owner, reference in references(resources)
        if reference.kind != "Volume" and reference not in present
    ]
    assert missing == []
    assert volumes_without_source(resources) == []


@pytest.mark.parametrize("name", OVERLAYS)
def test_no_secret_is_documented_that_nothing_reads(name: str) -> None:
    read = {reference for _, reference in references(overlay(name)) if reference.kind == "Secret"}
    read |= _read_by_pipelines(RUNS[name])
    documented = {secret.name for secret in documented_secrets(name)}
    assert documented == {secret.name for secret in read}


def _read_by_pipelines(namespace: str) -> set[Reference]:
    return {
        Reference("Secret", namespace, secret["secretName"], mapping["secretKey"])
        for executor in _executors()
        for secret in executor.get("secretAsEnv", ())
        for mapping in secret["keyToEnv"]
    }


@cache
def _executors() -> list[Resource]:
    """What the tasks of both pipelines ask of the platform."""
    from pipelines.graph.package import Variant, package

    training = Variant("sample", "cpu-small", work_volume="product1m-work")
    found: list[Resource] = []
    for variant in (training, Variant("sample", "cpu-small", kind="catalogue")):
        _, platform = yaml.safe_load_all(package(variant).text)
        found += platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values()
    return found


@pytest.mark.parametrize("name", OVERLAYS)
def test_a_compiled_pipeline_finds_its_addresses_secrets_and_volume(name: str) -> None:
    resources = overlay(name)
    present = existing(resources) | documented_secrets(name)
    assert len(_executors()) > len(STEPS)
    for executor in _executors():
        for config in executor["configMapAsEnv"]:
            for mapping in config["keyToEnv"]:
                key = Reference(
                    "ConfigMap", RUNS[name], config["configMapName"], mapping["configMapKey"]
                )
                assert key in present or config.get("optional")
        for claim in executor.get("pvcMount", ()):
            volume = Reference("PersistentVolumeClaim", RUNS[name], claim["constant"], "")
            assert volume in present
    assert _read_by_pipelines(RUNS[name]) <= present


def test_secrets_of_the_local_overlay_are_those_that_it_reads() -> None:
    if reason := why_no_kustomize():
        pytest.skip(reason)
    made = list(yaml.safe_load_all(run(str(MANIFESTS / "overlays/local/make-secrets.sh"))))
    keys = {
        Reference("Secret", namespace_of(secret), secret["metadata"]["name"], key)
        for secret in made
        for key in ["", *secret["data"]]
    }
    assert keys == documented_secrets("local")
    values = {
        (secret["metadata"]["name"], key): base64.b64decode(value).decode()
        for secret in made
        for key, value in secret["data"].items()
    }
    # What one side sets is what the other side gives.
    password = values["product1m-mlflow", "MLFLOW_TRACKING_PASSWORD"]
    assert password == values["mlflow-accounts", "pipeline-password"]
    password = values["product1m-mlflow-catalogue", "MLFLOW_TRACKING_PASSWORD"]
    assert password == values["mlflow-accounts", "catalogue-password"]
    identities = json.loads(values["seaweedfs-s3", "s3.json"])["identities"]
    keys_of = {
        i["credentials"][0]["accessKey"]: i["credentials"][0]["secretKey"] for i in identities
    }
    for secret in ("mlflow-s3", "product1m-s3", "seaweedfs-admin"):
        key = keys_of[values[secret, "AWS_ACCESS_KEY_ID"]]
        assert key == values[secret, "AWS_SECRET_ACCESS_KEY"]
    passwords = [value for (_, key), value in values.items() if "password" in key.lower()]
    assert min(len(value) for value in passwords) >= 32
    assert len(set(passwords)) == 5  # database, administrator, pipeline, reviewer, catalogue


def test_the_roles_job_calls_a_command_that_the_registry_has() -> None:
    from typer.main import get_command

    (job,) = (
        resource
        for resource in of_kind(overlay("local"), "Job")
        if resource["metadata"]["name"] == "mlflow-roles"
    )
    (container,) = job["spec"]["template"]["spec"]["containers"]
    program, group, act = container["command"]
    assert program == "product1m"
    command = get_command(app).commands[group].commands[act]  # type: ignore[attr-defined]
    required = {parameter.envvar for parameter in command.params if parameter.required}
    assert required <= {variable["name"] for variable in container["env"]}
    assert container["image"] == image("registration")


def test_images_are_those_of_the_version_and_production_has_its_own_registry() -> None:
    local = {container["image"] for container in _containers("local")}
    server = image("registration").replace("registration", "mlflow-server")
    ours = {found for found in local if found.startswith("product1m/")}
    assert ours == {image("ingestion"), image("registration"), server}
    theirs = {container["image"] for container in _containers("production")}
    registry = "registry.example.com"
    assert theirs == {f"{registry}/{found}" for found in (*ours, image("capture_pretraining"))}


def _containers(name: str) -> list[Resource]:
    return [container for pod in pod_templates(overlay(name)) for container in pod.containers]


def test_production_lists_every_host_that_the_base_lists() -> None:
    hosts = {}
    for name in OVERLAYS:
        (config,) = (
            resource
            for resource in of_kind(overlay(name), "ConfigMap")
            if "MLFLOW_SERVER_ALLOWED_HOSTS" in resource["data"]
        )
        hosts[name] = set(config["data"]["MLFLOW_SERVER_ALLOWED_HOSTS"].split(","))
    assert hosts["production"] - hosts["local"] == {"mlflow.example.com"}
    assert hosts["local"] <= hosts["production"]
    assert all(f"{host}:5000" in hosts["local"] for host in hosts["local"] if ":" not in host)
    (config,) = (
        r for r in of_kind(overlay("local"), "ConfigMap") if r["metadata"]["name"] == "product1m"
    )
    assert config["data"]["MLFLOW_TRACKING_URI"].removeprefix("http://") in hosts["local"]


def test_a_changed_setting_starts_new_pods() -> None:
    (deployment,) = of_kind(overlay("local"), "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    configs = [source["configMapRef"]["name"] for source in spec["containers"][0]["envFrom"]]
    configs += [v["configMap"]["name"] for v in spec["volumes"] if "configMap" in v]
    assert len(configs) == 3
    assert all(re.search(r"-[a-z0-9]{10}$", config) for config in configs)  # kustomize's digest
