"""The manifests of the server: what they open, what they mount, and the example for KServe."""

from typing import Any

import kubernetes_validate
import pytest
import yaml
from typer.main import get_command

from product1m.cli.app import app
from tests.support.manifests.build import MANIFESTS, build
from tests.support.manifests.policies import of_kind

KSERVE_FIELDS = {"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "timeout"}
"""Of a predictor, beside those of a pod."""


def inference_service() -> Any:
    return yaml.safe_load((MANIFESTS / "serving/inference-service.yaml").read_text("utf-8"))


def containers() -> list[Any]:
    found = [inference_service()["spec"]["predictor"]["containers"][0]]
    for name in ("local", "production"):
        (deployment,) = of_kind(build(f"serving/{name}"), "Deployment")
        found += deployment["spec"]["template"]["spec"]["containers"]
    return found


def test_the_pod_of_kserve_has_the_fields_of_a_pod() -> None:
    service = inference_service()
    assert service["apiVersion"] == "serving.kserve.io/v1beta1"
    assert set(service["spec"]) == {"predictor"}
    predictor = service["spec"]["predictor"]
    assert set(predictor) >= KSERVE_FIELDS
    spec = {key: value for key, value in predictor.items() if key not in KSERVE_FIELDS}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": service["metadata"], "spec": spec}
    kubernetes_validate.validate(pod, "1.32", strict=True)


def test_the_command_has_the_options_that_are_given() -> None:
    group: Any = get_command(app)
    options = {name for option in group.commands["serve"].params for name in option.opts}
    for container in containers():
        assert container["command"] == ["product1m", "serve"]
        given = dict(argument.split("=", 1) for argument in container["args"])
        assert set(given) <= options
        ports = [port["containerPort"] for port in container["ports"]]
        assert ports == [int(given["--port"])]


def test_the_root_is_read_only_and_the_temporary_folder_is_not() -> None:
    for container in containers():
        assert container["securityContext"]["readOnlyRootFilesystem"]
        writable = {
            mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")
        }
        assert writable == {"/tmp"}


@pytest.mark.parametrize("name", ["local", "production"])
def test_labels_lead_from_service_autoscaler_and_policies_to_the_pods(name: str) -> None:
    resources = build(f"serving/{name}")
    (deployment,) = of_kind(resources, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    (service,) = of_kind(resources, "Service")
    assert service["spec"]["selector"].items() <= labels.items()
    (autoscaler,) = of_kind(resources, "HorizontalPodAutoscaler")
    assert autoscaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    budgets = of_kind(resources, "PodDisruptionBudget")
    assert len(budgets) == (1 if name == "production" else 0)
    for budget in budgets:
        assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
        assert autoscaler["spec"]["minReplicas"] > budget["spec"]["minAvailable"]
    policies = {
        policy["metadata"]["name"]: policy for policy in of_kind(resources, "NetworkPolicy")
    }
    assert {"default-deny", "serving-to-mlflow", "mlflow-from-serving"} <= set(policies)
    assert policies["mlflow-from-serving"]["metadata"]["namespace"] == "product1m-mlflow"
    (way_in,) = policies["mlflow-from-serving"]["spec"]["ingress"][0]["from"]
    assert way_in["podSelector"]["matchLabels"].items() <= labels.items()
