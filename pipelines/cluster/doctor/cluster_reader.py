"""Reads objects of a cluster as plain JSON; nothing here changes the cluster."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import urllib3
from kubernetes import client
from kubernetes.config.config_exception import ConfigException

from pipelines.cluster.api import ClusterError
from pipelines.cluster.pods import TIMEOUT, core, short
from pipelines.graph.resources import Profile

Json = dict[str, Any]
SYSTEM_NAMESPACE = "kubeflow"
"""Where Kubeflow Pipelines itself runs."""


class HiddenError(ClusterError):
    """An object that may not be read with these credentials."""


@dataclass(frozen=True)
class Wanted:
    """The kind of run that the cluster is asked for."""

    namespace: str
    service_account: str
    profile: Profile
    num_nodes: int = 1
    work_volume: str = ""
    runtime: str = "product1m-torch"
    timezone: str = "UTC"


class ClusterReader:
    """Reads a cluster with the credentials of the kubeconfig or of the pod's own account."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        try:
            self._client = core().api_client
        except ConfigException as error:
            raise ClusterError(
                f"no Kubernetes cluster: {error}; set KUBECONFIG to the file of your cluster"
            ) from error

    def get(self, path: str) -> Json | None:
        """An object, or None if it does not exist; HiddenError if it may not be read."""
        return self.request("GET", path)

    def items(self, path: str) -> list[Json]:
        """The objects of a list; none if the cluster does not know the kind."""
        listing = self.get(path)
        return list(listing["items"]) if listing else []

    def request(self, method: str, path: str, body: Json | None = None) -> Json | None:
        """Send a request; None for 404. ClusterError names what was asked for."""
        try:
            return dict(
                self._client.call_api(
                    path,
                    method,
                    body=body,
                    header_params={"Accept": "application/json"},
                    response_type="object",
                    auth_settings=["BearerToken"],
                    _return_http_data_only=True,
                    _request_timeout=TIMEOUT,
                )
            )
        except client.ApiException as error:
            if error.status == 404:
                return None
            kind = HiddenError if error.status in (401, 403) else ClusterError
            raise kind(f"{method} {path}: {short(error)}") from error
        except urllib3.exceptions.HTTPError as error:
            raise ClusterError(
                f"Kubernetes does not answer: {short(error)}; check KUBECONFIG and the network"
            ) from error

    def own(self, kind: str, name: str = "") -> str:
        """Path of a core object in the namespace of runs."""
        return f"/api/v1/namespaces/{self.wanted.namespace}/{kind}/{name}".rstrip("/")


def image_version(workload: Mapping[str, Any]) -> str:
    """The tag of a workload's first image, without a leading `v`; empty if it has none."""
    image = str(workload["spec"]["template"]["spec"]["containers"][0]["image"])
    tag = image.partition("@")[0].rpartition("/")[2].partition(":")[2]
    return tag.removeprefix("v")
