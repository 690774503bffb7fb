"""A cluster on which a run works, as a real one answers (Kubernetes 1.34, KFP 2.17, Argo 4.0)."""

from typing import Any

from tests.support.servers.kubernetes_objects import Objects

Json = dict[str, Any]
SYSTEM = "kubeflow"
DEFAULTS = """\
spec:
  templateDefaults:
    retryStrategy:
      limit: "2"
      retryPolicy: OnError
"""


def listed(*items: Json) -> Json:
    return {"kind": "List", "items": list(items)}


def deployment(image: str, **env: str) -> Json:
    entries = [{"name": name, "value": value} for name, value in env.items()]
    container = {"name": "main", "image": image, "env": entries}
    return {
        "spec": {"template": {"spec": {"containers": [container]}}},
        "status": {"readyReplicas": 1},
    }


def named(name: str, **fields: Any) -> Json:
    return {"metadata": {"name": name}, **fields}


def fill(objects: Objects) -> None:
    """Put everything there that a run of the sample needs."""
    apps = f"/apis/apps/v1/namespaces/{SYSTEM}/deployments"
    core = f"/api/v1/namespaces/{SYSTEM}"
    claim: Json = {"spec": {"accessModes": ["ReadWriteMany"]}, "status": {"phase": "Bound"}}
    node = named(
        "node",
        spec={},
        status={"allocatable": {"cpu": "4", "memory": "8025556Ki", "pods": "110"}},
    )
    node_container = {"name": "node", "resources": {"limits": {"cpu": "1", "memory": "4Gi"}}}
    job = {"template": {"spec": {"template": {"spec": {"containers": [node_container]}}}}}
    objects.by_path |= {
        "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.4"},
        f"{apps}/ml-pipeline": deployment("ghcr.io/kubeflow/kfp-api-server:2.17.0"),
        f"{apps}/workflow-controller": deployment("quay.io/argoproj/workflow-controller:v4.0.5"),
        f"{apps}/ml-pipeline-scheduledworkflow": deployment(
            "ghcr.io/kubeflow/kfp-scheduled-workflow-controller:2.17.0",
            CRON_SCHEDULE_TIMEZONE="UTC",
        ),
        f"/api/v1/namespaces/{SYSTEM}": {
            "metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}
        },
        f"{core}/serviceaccounts/product1m-runs": named("product1m-runs"),
        f"{core}/configmaps/product1m": {
            "data": {
                "MLFLOW_TRACKING_URI": "http://mlflow.product1m-mlflow.svc.cluster.local:5000",
                "MLFLOW_EXPERIMENT_NAME": "product1m-training",
                "AWS_DEFAULT_REGION": "us-east-1",
            }
        },
        f"{core}/secrets/product1m-mlflow": {
            "data": {"MLFLOW_TRACKING_USERNAME": "cA==", "MLFLOW_TRACKING_PASSWORD": "cA=="}
        },
        f"{core}/secrets/product1m-s3": {
            "data": {"AWS_ACCESS_KEY_ID": "cA==", "AWS_SECRET_ACCESS_KEY": "cA=="}
        },
        f"{core}/persistentvolumeclaims/product1m-work": claim,
        f"{core}/configmaps/workflow-controller-configmap": {
            "data": {"workflowDefaults": DEFAULTS}
        },
        f"{core}/resourcequotas": listed(
            named(
                "gpus",
                spec={"hard": {"requests.nvidia.com/gpu": "16"}},
                status={
                    "hard": {"requests.nvidia.com/gpu": "16"},
                    "used": {"requests.nvidia.com/gpu": "0"},
                },
            )
        ),
        "/api/v1/nodes": listed(node),
        "/api/v1/pods": listed(),
        f"/apis/networking.k8s.io/v1/namespaces/{SYSTEM}/networkpolicies": listed(named("dns")),
        "/apis/apps/v1/namespaces/kube-system/daemonsets": listed(named("kindnet")),
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/trainjobs.trainer.kubeflow.org": (
            named("trainjobs.trainer.kubeflow.org")
        ),
        "/apis/trainer.kubeflow.org/v1alpha1/clustertrainingruntimes/product1m-torch": named(
            "product1m-torch", spec={"template": {"spec": {"replicatedJobs": [job]}}}
        ),
    }
