from collections.abc import Callable
from typing import Any

import pytest

from tests.support.manifests import policies
from tests.support.manifests.build import OVERLAYS, overlay
from tests.support.manifests.policies import Resource

Change = Callable[[dict[str, Resource]], None]
"""Takes `Kind/name` to resource, and spoils one."""


def _container(resources: dict[str, Resource]) -> Resource:
    container: Resource = resources["Deployment/mlflow"]["spec"]["template"]["spec"]["containers"][
        0
    ]
    return container


def _env(name: str, value: str) -> Change:
    return lambda r: _container(r)["env"].append({"name": name, "value": value})


def _set(resource: str, *path: str | int, to: Any) -> Change:
    def change(resources: dict[str, Resource]) -> None:
        place: Any = resources[resource]
        for part in path[:-1]:
            place = place[part]
        if to is None:
            del place[path[-1]]
        else:
            place[path[-1]] = to

    return change


POD = ("spec", "template", "spec")
FIRST = (*POD, "containers", 0)
MLFLOW = "Deployment/mlflow"
SPOILED: list[tuple[Callable[..., list[str]], Change, str]] = [
    (policies.nothing_runs_as_root, _set(MLFLOW, *POD, "securityContext", "runAsUser", to=0), "[0"),
    (
        policies.nothing_runs_as_root,
        _set("Job/mlflow-roles", *FIRST, "securityContext", "runAsUser", to=0),
        "Job/mlflow-roles",
    ),
    (
        policies.pods_keep_to_restricted,
        _set(MLFLOW, *FIRST, "securityContext", "readOnlyRootFilesystem", to=None),
        "may write its root",
    ),
    (
        policies.pods_keep_to_restricted,
        _set(MLFLOW, *FIRST, "securityContext", "capabilities", to={"add": ["SYS_ADMIN"]}),
        "SYS_ADMIN",
    ),
    (
        policies.pods_keep_to_restricted,
        _set(MLFLOW, *POD, "volumes", 0, to={"name": "config", "hostPath": {"path": "/"}}),
        "hostPath",
    ),
    (
        policies.images_name_a_version,
        _set(
            "ClusterTrainingRuntime/product1m-torch",
            "spec",
            "template",
            "spec",
            "replicatedJobs",
            0,
            "template",
            *POD,
            "containers",
            0,
            "image",
            to="x/y:latest",
        ),
        "x/y:latest",
    ),
    (
        policies.images_name_a_version,
        _set(MLFLOW, *FIRST, "image", to="host:5000/x"),
        "host:5000/x",
    ),
    (
        policies.resources_are_bounded,
        _set(MLFLOW, *FIRST, "resources", "limits", "memory", to=None),
        "no limits of memory",
    ),
    (policies.servers_are_probed, _set(MLFLOW, *FIRST, "startupProbe", to=None), "no startupProbe"),
    (
        policies.servers_are_probed,
        _set(MLFLOW, *FIRST, "livenessProbe", "httpGet", "port", to="web"),
        "asks port web",
    ),
    (policies.secrets_are_references, _env("PGPASSWORD", "hunter2"), "PGPASSWORD"),
    (
        policies.secrets_are_references,
        _set("ConfigMap/product1m", "data", "MLFLOW_TRACKING_URI", to="http://me:pw@mlflow:5000"),
        "MLFLOW_TRACKING_URI",
    ),
    (
        policies.services_select_pods,
        _set("Service/mlflow", "spec", "selector", "app.kubernetes.io/component", to="web"),
        "selects no pod",
    ),
    (
        policies.services_select_pods,
        _set("Service/mlflow", "spec", "ports", 0, "targetPort", to=5001),
        "no port 5001",
    ),
    (
        policies.budgets_leave_a_replica,
        _set("PodDisruptionBudget/mlflow", "spec", "minAvailable", to=2),
        "no replica may ever go",
    ),
    (
        policies.namespaces_deny_by_default,
        _set("NetworkPolicy/default-deny", "spec", "policyTypes", to=["Ingress"]),
        "Deployment/mlflow",
    ),
    (
        policies.accounts_have_least_rights,
        _set("Role/product1m-runs", "rules", 3, "resourceNames", to=None),
        "secrets",
    ),
    (
        policies.accounts_have_least_rights,
        _set(MLFLOW, *POD, "automountServiceAccountToken", to=None),
        "mounts a token",
    ),
]


@pytest.mark.parametrize("name", OVERLAYS)
@pytest.mark.parametrize("policy", policies.POLICIES, ids=lambda policy: policy.__name__)
def test_overlays_keep_to_the_policies(
    policy: Callable[[list[Resource]], list[str]], name: str
) -> None:
    assert policy(overlay(name)) == []


@pytest.mark.parametrize(("policy", "change", "finding"), SPOILED)
def test_a_policy_finds_what_breaks_it(
    policy: Callable[[list[Resource]], list[str]], change: Change, finding: str
) -> None:
    resources = overlay("production")
    change({policies.name_of(resource): resource for resource in resources})
    assert any(finding in found for found in policy(resources))
