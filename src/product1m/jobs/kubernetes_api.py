"""The calls to Kubernetes that a TrainJob needs; they wait while the API is unavailable.

Kubeflow Trainer v2: `TrainJob` of `trainer.kubeflow.org/v1alpha1`, whose pods are those of a JobSet
of the same name.
"""

import http.client
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client
from kubernetes import config as kubernetes_config

from product1m.errors import ConfigError, TrainingError

logger = logging.getLogger(__name__)

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
NODE = "node"
"""Name of the replicated job in the runtime, and of the container that trains."""
JOBSET = "jobset.sigs.k8s.io/jobset-name"
REPLICATED_JOB = "jobset.sigs.k8s.io/replicatedjob-name"
INDEX = "batch.kubernetes.io/job-completion-index"
MAIN_CONTAINER = "main"
"""Name of the container that runs the step, given by Argo."""
MAX_AWAY_S = 300.0
"""How long the API may be unavailable before the step fails (ours)."""
MAX_WAIT_S = 30.0
REQUEST_TIMEOUT_S = (10.0, 60.0)
LOG_SILENCE_S = 30.0
"""A log without a new line for this long is requested again (ours)."""
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

Json = dict[str, Any]


class LogCutError(Exception):
    """A log stopped in the middle."""


@dataclass(frozen=True)
class OwnPod:
    """The pod that the step runs in."""

    name: str
    image: str
    owners: list[Json]
    """What owns the pod: the run's workflow."""
    claims: dict[str, str]
    """Mount path to the name of the volume claim mounted there."""


class TrainJobApi:
    """One namespace of a cluster, as this pod's account may use it."""

    def __init__(self, namespace: str, max_away_s: float = MAX_AWAY_S) -> None:
        self.namespace = namespace
        self._max_away_s = max_away_s
        self._jobs = client.CustomObjectsApi()
        self._core = client.CoreV1Api()

    @classmethod
    def connect(cls) -> "TrainJobApi":
        """The cluster this pod runs in, or the one of the kubeconfig."""
        try:
            kubernetes_config.load_incluster_config()
            return cls(NAMESPACE_FILE.read_text("utf-8").strip())
        except kubernetes_config.ConfigException:
            pass
        try:
            file = os.environ.get("KUBECONFIG")  # the client would read it when it is imported
            kubernetes_config.load_kube_config(file)
            _, context = kubernetes_config.list_kube_config_contexts(file)
        except (kubernetes_config.ConfigException, OSError) as error:
            raise ConfigError(
                "training_job.num_nodes: more than one node needs a Kubernetes cluster, and there "
                f"is none here: {error}"
            ) from error
        return cls(context["context"].get("namespace", "default"))

    def own_pod(self) -> OwnPod:
        """The pod of this process."""
        name = os.environ.get("KFP_POD_NAME") or os.environ.get("HOSTNAME", "")
        pod = self._plain(
            self._call(
                f"reading the step's own pod {name}",
                self._core.read_namespaced_pod,
                name,
                self.namespace,
            )
        )
        containers = {container["name"]: container for container in pod["spec"]["containers"]}
        container = containers.get(MAIN_CONTAINER) or pod["spec"]["containers"][0]
        claims = {
            volume["name"]: volume["persistentVolumeClaim"]["claimName"]
            for volume in pod["spec"].get("volumes", [])
            if "persistentVolumeClaim" in volume
        }
        return OwnPod(
            name,
            container["image"],
            pod["metadata"].get("ownerReferences", []),
            {
                mount["mountPath"]: claims[mount["name"]]
                for mount in container.get("volumeMounts", [])
                if mount["name"] in claims
            },
        )

    def create(self, job: Json) -> bool:
        """Create a TrainJob; False if one with its name exists."""
        created: bool = self._call(
            f"starting the TrainJob {job['metadata']['name']}",
            self._jobs.create_namespaced_custom_object,
            *(GROUP, VERSION, self.namespace, PLURAL, job),
            if_status={409: False},
        )
        return created is not False

    def get(self, name: str) -> Json | None:
        """The current state of a TrainJob; None if it does not exist."""
        job: Json | None = self._call(
            f"reading the TrainJob {name}",
            self._jobs.get_namespaced_custom_object,
            *(GROUP, VERSION, self.namespace, PLURAL, name),
            if_status={404: None},
        )
        return job

    def delete(self, name: str) -> None:
        """Delete a TrainJob, if it exists; it stays until its pods are gone."""
        self._call(
            f"removing the TrainJob {name}",
            self._jobs.delete_namespaced_custom_object,
            *(GROUP, VERSION, self.namespace, PLURAL, name),
            propagation_policy="Foreground",
            if_status={404: None},
        )

    def pods(self, name: str) -> list[Json]:
        """The training pods of a TrainJob, node 0 first, the newest pod of a node first."""
        answer = self._call(
            f"listing the pods of the TrainJob {name}",
            self._core.list_namespaced_pod,
            self.namespace,
            label_selector=f"{JOBSET}={name},{REPLICATED_JOB}={NODE}",
        )
        pods: list[Json] = [self._plain(pod) for pod in answer.items]
        pods.sort(key=lambda pod: str(pod["metadata"]["creationTimestamp"]), reverse=True)
        return sorted(pods, key=lambda pod: int(pod["metadata"]["labels"].get(INDEX, 0)))

    def log(self, pod: str, since_s: int | None) -> Iterator[str]:
        """The log of a pod's training container as it grows, `time text` a line.

        Ends when the server ends it, which it also does when the pod is gone. Raises LogCutError if
        the connection breaks, or if no line comes for `LOG_SILENCE_S`.
        """
        options: Json = {"since_seconds": since_s} if since_s else {}
        try:
            response = self._core.read_namespaced_pod_log(
                pod,
                self.namespace,
                container=NODE,
                follow=True,
                timestamps=True,
                _preload_content=False,
                _request_timeout=(REQUEST_TIMEOUT_S[0], LOG_SILENCE_S),
                **options,
            )
            for line in response:
                yield line.decode("utf-8", "replace")
        except client.ApiException as error:
            if error.status in (401, 403):
                raise self._refused(f"reading the log of the pod {pod}", error) from error
            if error.status != 404:
                raise LogCutError(pod) from error
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
            raise LogCutError(pod) from error

    def _call(
        self,
        what: str,
        function: Callable[..., Any],
        *arguments: Any,
        if_status: dict[int, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Call the API until it answers; statuses in `if_status` are answers, not errors."""
        deadline, wait = time.monotonic() + self._max_away_s, 0.5
        while True:
            try:
                return function(*arguments, _request_timeout=REQUEST_TIMEOUT_S, **options)
            except client.ApiException as error:
                if if_status is not None and error.status in if_status:
                    return if_status[error.status]
                if error.status != 429 and error.status < 500:
                    raise self._refused(what, error) from error
                problem = f"{error.status} {error.reason}"
            except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
                problem = str(error)
            if time.monotonic() + wait > deadline:
                raise TrainingError(
                    f"{what}: Kubernetes has not answered for {self._max_away_s:.0f} s: {problem}"
                )
            logger.warning("%s: %s; trying again in %.1f s", what, problem, wait)
            time.sleep(wait)
            wait = min(2 * wait, MAX_WAIT_S)

    def _refused(self, what: str, error: Any) -> TrainingError:
        """The error for a request that Kubernetes refuses, with what to do about it."""
        advice = {
            401: "this pod's account token is not accepted",
            403: "its account needs the role product1m-train-jobs of manifests/base",
            404: f"is Kubeflow Trainer v2 installed? `kubectl get crd {PLURAL}.{GROUP}`",
        }.get(error.status, "the cluster does not accept it")
        return TrainingError(
            f"{what} in the namespace {self.namespace}: Kubernetes answers {error.status} "
            f"{error.reason}: {error.body}; {advice}"
        )

    def _plain(self, value: Any) -> Json:
        """An object of the client as the JSON that it was made from."""
        plain: Json = self._core.api_client.sanitize_for_serialization(value)
        return plain


def condition(job: Json, kind: str) -> Json | None:
    """A job's condition of a kind if it is true; a running job has none."""
    for item in job.get("status", {}).get("conditions") or []:
        if item["type"] == kind and item["status"] == "True":
            return dict(item)
    return None
