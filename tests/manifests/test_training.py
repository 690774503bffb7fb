import json
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from components.images import image
from pipelines.graph import resources as pipeline
from pipelines.graph.package import Variant
from product1m.cli.app import app
from product1m.errors import RANK_EXIT_CODE
from product1m.registry.roles import EXPERIMENT
from tests.support.manifests.build import MANIFESTS, OVERLAYS, RUNS, build, overlay
from tests.support.manifests.policies import Resource, namespace_of, of_kind, pod_templates
from tests.support.manifests.references import Reference, existing


def test_training_nodes_are_like_the_steps_that_they_stand_for() -> None:
    (runtime,) = (
        pod
        for pod in pod_templates(overlay("production"))
        if pod.owner == "ClusterTrainingRuntime/product1m-torch"
    )
    for owner in ("ClusterTrainingRuntime/product1m-torch", "Job/product1m-work-volume"):
        (pod,) = (found for found in pod_templates(overlay("production")) if found.owner == owner)
        security = pod.spec["securityContext"]
        users = {security[key] for key in ("runAsUser", "runAsGroup", "fsGroup")}
        assert users == {pipeline.USER_ID}  # all write to one volume
    (node,) = runtime.containers
    assert {mount["mountPath"] for mount in node["volumeMounts"]} >= {
        pipeline.WORK_FOLDER,
        "/dev/shm",
    }
    assert runtime.spec["tolerations"][0]["key"] == pipeline.GPU
    assert node["resources"]["limits"].keys() == {"cpu", "memory"}, "a GPU could not be taken away"
    given = {variable["name"]: variable.get("value") for variable in node["env"]}
    wanted = {name for names in pipeline.CREDENTIALS.values() for name in names}
    assert wanted <= given.keys()
    assert given["MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"] == "true"


def test_an_error_of_the_step_ends_a_job_without_another_round() -> None:
    (runtime,) = of_kind(overlay("production"), "ClusterTrainingRuntime")
    job_set = runtime["spec"]["template"]["spec"]
    (policy,) = job_set["failurePolicy"]["rules"]
    assert policy["action"] == "FailJobSet"
    assert policy["onJobFailureReasons"] == ["PodFailurePolicy"], "other failures start a new round"
    (node,) = job_set["replicatedJobs"]
    (rule,) = node["template"]["spec"]["podFailurePolicy"]["rules"]
    pod = node["template"]["spec"]["template"]["spec"]
    assert rule["onExitCodes"]["values"] == [RANK_EXIT_CODE]
    assert rule["onExitCodes"]["containerName"] == pod["containers"][0]["name"]
    assert pod["restartPolicy"] == "Never", "a policy for failed pods is refused otherwise"
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "node"}}
    kubernetes_validate.validate(job | {"spec": node["template"]["spec"]}, "1.34", strict=True)


def test_the_example_requests_what_the_profile_of_a_run_would() -> None:
    (example,) = of_kind(build("examples"), "TrainJob")
    (quota,) = of_kind(overlay("production"), "ResourceQuota")
    trainer = example["spec"]["trainer"]
    job = Variant("reference", "gpu-8").configuration().training_job
    asked = {key: str(value) for key, value in trainer["resourcesPerNode"]["limits"].items()}
    assert asked == job.node_resources
    assert trainer["numProcPerNode"] == job.processes_per_node
    assert quota["spec"]["hard"].keys() == {f"requests.{pipeline.GPU}"}


@pytest.mark.parametrize("name", OVERLAYS)
def test_runs_log_to_the_experiment_that_their_account_may_write(name: str) -> None:
    (config,) = (
        found
        for found in of_kind(overlay(name), "ConfigMap")
        if found["metadata"]["name"] == pipeline.CONFIG_MAP
    )
    assert config["data"]["MLFLOW_EXPERIMENT_NAME"] == EXPERIMENT


def test_the_quota_lets_the_largest_task_and_the_example_run() -> None:
    for name in OVERLAYS:
        (quota,) = of_kind(overlay(name), "ResourceQuota")
        gpus = int(quota["spec"]["hard"][f"requests.{pipeline.GPU}"])
        assert gpus >= max(task.gpus for p in pipeline.PROFILES.values() for task in p.values())
        (example,) = of_kind(build("examples"), "TrainJob")
        trainer = example["spec"]["trainer"]
        assert gpus >= trainer["numNodes"] * trainer["resourcesPerNode"]["limits"][pipeline.GPU]
        assert trainer["numProcPerNode"] == trainer["resourcesPerNode"]["limits"][pipeline.GPU]


def test_default_limits_give_no_container_a_gpu() -> None:
    for limits in of_kind(overlay("production"), "LimitRange"):
        assert pipeline.GPU not in json.dumps(limits)


def test_the_example_trains_with_a_command_and_a_runtime_that_exist() -> None:
    from typer.main import get_command

    (example,) = of_kind(build("examples"), "TrainJob")
    (runtime,) = of_kind(overlay("production"), "ClusterTrainingRuntime")
    assert example["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"]
    trainer = example["spec"]["trainer"]
    assert trainer["image"] == image("capture_pretraining")
    torchrun = [*trainer["command"], *trainer["args"]]
    command = torchrun[torchrun.index("product1m") + 1 :]
    parser = get_command(app)
    step = parser.commands[command[0]]  # type: ignore[attr-defined]
    parsed = step.make_context(command[0], command[1:])
    assert parsed.params["preset"] == "reference"
    mounts = {
        mount["mountPath"]
        for pod in pod_templates([runtime])
        for container in pod.containers
        for mount in container["volumeMounts"]
    }
    for key in ("train_features", "scene_features", "checkpoint"):
        assert any(Path(mount) in Path(parsed.params[key]).parents for mount in mounts)


def _may(resources: list[Resource], account: str, verb: str, group: str, resource: str) -> bool:
    roles = {
        (namespace_of(binding), binding["roleRef"]["name"])
        for binding in of_kind(resources, "RoleBinding")
        if account in {subject["name"] for subject in binding["subjects"]}
    }
    return any(
        verb in rule["verbs"] and group in rule["apiGroups"] and resource in rule["resources"]
        for role in of_kind(resources, "Role")
        if (namespace_of(role), role["metadata"]["name"]) in roles
        for rule in role["rules"]
    )


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_account_of_runs_may_start_follow_and_remove_training_jobs(name: str) -> None:
    resources = overlay(name)
    trainer = "trainer.kubeflow.org"
    for verb, group, resource, expected in [
        ("create", trainer, "trainjobs", True),
        ("get", trainer, "trainjobs", True),
        ("delete", trainer, "trainjobs", True),
        ("list", "", "pods", True),
        ("get", "", "pods/log", True),
        ("create", "argoproj.io", "workflowtaskresults", True),
        ("create", "", "pods", False),
        ("create", "", "pods/exec", False),
        ("list", "", "secrets", False),
        ("create", "batch", "jobs", False),
        ("patch", trainer, "trainjobs", False),
    ]:
        found = _may(resources, "product1m-runs", verb, group, resource)
        assert found is expected, (verb, resource)
        assert not _may(resources, "product1m-training", verb, group, resource)


@pytest.mark.parametrize("name", OVERLAYS)
def test_schedules_name_an_account_and_a_volume_that_exist(name: str) -> None:
    there = existing(overlay(name))
    schedules = yaml.safe_load((MANIFESTS / "schedules.yaml").read_text("utf-8"))["schedules"]
    for schedule in schedules:
        for key, kind in [
            ("service_account", "ServiceAccount"),
            ("work_volume", "PersistentVolumeClaim"),
        ]:
            if schedule.get(key):
                assert Reference(kind, RUNS[name], schedule[key], "") in there
