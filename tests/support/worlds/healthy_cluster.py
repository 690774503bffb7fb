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
    objects.by_path |= system() | namespace_of_runs() | nodes() | trainer()


def system() -> dict[str, Json]:
    """Kubernetes and Kubeflow Pipelines."""
    apps = f"/apis/apps/v1/namespaces/{SYSTEM}/deployments"
    settings = f"/api/v1/namespaces/{SYSTEM}/configmaps/workflow-controller-configmap"
    return {
        "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.4"},
        f"{apps}/ml-pipeline": deployment("ghcr.io/kubeflow/kfp-api-server:2.17.0"),
        f"{apps}/workflow-controller": deployment("quay.io/argoproj/workflow-controller:v4.0.5"),
        f"{apps}/ml-pipeline-scheduledworkflow": deployment(
            "ghcr.io/kubeflow/kfp-scheduled-workflow-controller:2.17.0",
            CRON_SCHEDULE_TIMEZONE="UTC",
        ),
        settings: {"data": {"workflowDefaults": DEFAULTS}},
        "/apis/apps/v1/namespaces/kube-system/daemonsets": listed(named("kindnet")),
    }


def namespace_of_runs() -> dict[str, Json]:
    """What the manifests bring to it."""
    core = f"/api/v1/namespaces/{SYSTEM}"
    hard = {"requests.nvidia.com/gpu": "16"}
    quota = {"hard": hard, "used": {"requests.nvidia.com/gpu": "0"}}
    addresses = {
        "MLFLOW_TRACKING_URI": "http://mlflow.product1m-mlflow.svc.cluster.local:5000",
        "MLFLOW_EXPERIMENT_NAME": "product1m-training",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    return {
        core: {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}},
        f"{core}/serviceaccounts/product1m-runs": named("product1m-runs"),
        f"{core}/configmaps/product1m": {"data": addresses},
        f"{core}/secrets/product1m-mlflow": {
            "data": {"MLFLOW_TRACKING_USERNAME": "cA==", "MLFLOW_TRACKING_PASSWORD": "cA=="}
        },
        f"{core}/secrets/product1m-s3": {
            "data": {"AWS_ACCESS_KEY_ID": "cA==", "AWS_SECRET_ACCESS_KEY": "cA=="}
        },
        f"{core}/persistentvolumeclaims/product1m-work": {
            "spec": {"accessModes": ["ReadWriteMany"]},
            "status": {"phase": "Bound"},
        },
        f"{core}/resourcequotas": listed(named("gpus", spec={"hard": hard}, status=quota)),
        f"/apis/networking.k8s.io/v1/namespaces/{SYSTEM}/networkpolicies": listed(named("dns")),
    }


def nodes() -> dict[str, Json]:
    """One node of a laptop, without pods."""
    sizes = {"cpu": "4", "memory": "8025556Ki", "pods": "110"}
    node = named("node", spec={}, status={"allocatable": sizes})
    return {"/api/v1/nodes": listed(node), "/api/v1/pods": listed()}


def trainer() -> dict[str, Json]:
    """Kubeflow Trainer with our runtime."""
    container = {"name": "node", "resources": {"limits": {"cpu": "1", "memory": "4Gi"}}}
    job = {"template": {"spec": {"template": {"spec": {"containers": [container]}}}}}
    spec = {"template": {"spec": {"replicatedJobs": [job]}}}
    kinds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    runtimes = "/apis/trainer.kubeflow.org/v1alpha1/clustertrainingruntimes"
    return {
        f"{kinds}/trainjobs.trainer.kubeflow.org": named("trainjobs.trainer.kubeflow.org"),
        f"{runtimes}/product1m-torch": named("product1m-torch", spec=spec),
    }
