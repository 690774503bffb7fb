"""The cluster's pipeline API, called with time-outs, retries and clear errors.

urllib3 retries reading. Creating is not retried, since the request may have succeeded although its
answer was lost: `create_once` looks before it asks again.
"""

import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import kfp_server_api as api
import urllib3
from kfp import Client
from kfp.client.set_volume_credentials import ServiceAccountTokenVolumeCredentials
from kfp_server_api.rest import RESTClientObject

from product1m.errors import PipelineError

logger = logging.getLogger(__name__)

T = TypeVar("T")

TOKEN_VARIABLE = "KF_PIPELINES_SA_TOKEN_PATH"  # noqa: S105 the name KFP's client gives it
ENDPOINT_VARIABLE = "KF_PIPELINES_ENDPOINT"
CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 60.0
NUM_RETRIES = 4
BACKOFF_S = 0.5
"""Before the second retry; doubled for each further one (urllib3)."""
PAGE_SIZE = 100
_TRANSIENT = (429, 500, 502, 503, 504)


class ClusterError(PipelineError):
    """The pipeline API refused a request."""


class UnreachableError(ClusterError):
    """No answer, or an error that may be temporary."""


class ClusterConflictError(ClusterError):
    """It exists already."""


class NotFoundError(ClusterError):
    """It does not exist."""


class _Client(Client):  # type: ignore[misc]
    """KFP's client, used to find the endpoint and the credentials."""

    def get_kfp_healthz(self, sleep_duration: int = 5) -> api.V2beta1GetHealthzResponse:  # noqa: ARG002
        """Do not ask: the constructor calls this without a time-out, only to guess a namespace."""
        return api.V2beta1GetHealthzResponse(multi_user=False)


class Cluster:
    """A pipeline API.

    Args:
        endpoint: its URL; default: `KF_PIPELINES_ENDPOINT`, this cluster, the kubeconfig.
        namespace: the user's, on an installation with several users.
    """

    def __init__(self, endpoint: str = "", namespace: str = "") -> None:
        credentials = None
        if os.environ.get(TOKEN_VARIABLE):
            credentials = ServiceAccountTokenVolumeCredentials()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            client = _Client(host=endpoint or None, namespace="", credentials=credentials)
        self.client: api.ApiClient = client.runs.run_service_get_run.__self__.api_client
        self.namespace = namespace
        configuration = self.client.configuration
        configuration.retries = urllib3.Retry(
            NUM_RETRIES,
            backoff_factor=BACKOFF_S,
            status_forcelist=_TRANSIENT,
            allowed_methods=("GET", "DELETE"),
            raise_on_status=False,
        )
        self.client.rest_client = RESTClientObject(configuration)
        self.endpoint: str = configuration.host
        self.runs = api.RunServiceApi(self.client)
        self.schedules = api.RecurringRunServiceApi(self.client)
        self.pipelines = api.PipelineServiceApi(self.client)
        self.uploads = api.PipelineUploadServiceApi(self.client)
        self.experiments = api.ExperimentServiceApi(self.client)

    @property
    def scope(self) -> dict[str, str]:
        """The namespace as an argument; an installation for one user accepts none."""
        return {"namespace": self.namespace} if self.namespace else {}

    def run_page(self, run_id: str) -> str:
        """The page of a run in the KFP UI, which has the same address."""
        return f"{self.endpoint}/#/runs/details/{run_id}"

    def call(self, action: str, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a method of a service; a ClusterError says what failed and where."""
        timeout = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
        where = f"{action} at {self.endpoint}"
        try:
            return method(*args, _request_timeout=timeout, **kwargs)
        except api.ApiException as error:
            raise _refusal(where, error) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            reason = getattr(error, "reason", None) or error
            raise UnreachableError(
                f"{where}: no answer: {reason}; check --endpoint or ${ENDPOINT_VARIABLE} and the "
                "network (`kubectl port-forward` ends with its terminal)"
            ) from error

    def all_of(
        self, action: str, method: Callable[..., Any], field: str, **kwargs: Any
    ) -> Iterator[Any]:
        """All items of a listing method, page by page."""
        token = ""
        while True:
            page = self.call(action, method, page_token=token, page_size=PAGE_SIZE, **kwargs)
            yield from getattr(page, field) or ()
            token = page.next_page_token or ""
            if not token:
                return

    def named(self, name: str) -> str:
        """The filter for a display name, as a listing method takes it."""
        equal = api.V2beta1Predicate(operation="EQUALS", key="display_name", string_value=name)
        chosen = api.V2beta1Filter(predicates=[equal])
        return json.dumps(self.client.sanitize_for_serialization(chosen))

    def experiment_id(self, name: str) -> str:
        """The experiment's id; the experiment is created if missing."""
        action = f"experiment {name}"

        def find() -> Any:
            listed = self.all_of(
                action,
                self.experiments.experiment_service_list_experiments,
                "experiments",
                filter=self.named(name),
                **self.scope,
            )
            return next(listed, None)

        def create() -> Any:
            wanted = api.V2beta1Experiment(display_name=name, **self.scope)
            method = self.experiments.experiment_service_create_experiment
            return self.call(action, method, wanted)

        return str((find() or create_once(create, find)).experiment_id)


def is_cluster_named(endpoint: str = "") -> bool:
    """Whether an option, the environment, this pod or a kubeconfig names a pipeline API."""
    kubeconfig = os.environ.get("KUBECONFIG") or "~/.kube/config"
    files = (Path(name).expanduser() for name in kubeconfig.split(os.pathsep))
    named = (
        endpoint or os.environ.get(ENDPOINT_VARIABLE) or os.environ.get("KUBERNETES_SERVICE_HOST")
    )
    return bool(named) or any(path.is_file() for path in files)


def create_once(create: Callable[[], T], find: Callable[[], T | None]) -> T:
    """The result of `create`; after an unclear answer what `find` returns, if anything."""
    for attempt in range(NUM_RETRIES + 1):
        try:
            return create()
        except (ClusterConflictError, UnreachableError) as error:
            pause = BACKOFF_S * 2**attempt
            logger.warning("%s; looking again in %.1f s", error, pause)
            time.sleep(pause)
            existing = find()
            if existing is not None:
                return existing
            if isinstance(error, ClusterConflictError) or attempt == NUM_RETRIES:
                raise
    raise AssertionError("unreachable")


def _refusal(where: str, error: api.ApiException) -> ClusterError:
    reason = f"{where}: {error.status} {error.reason}: {_message(error)}"
    if error.status == 401:
        return ClusterError(
            f"{reason}; the credentials are not valid: put a fresh token in the file that "
            f"${TOKEN_VARIABLE} names (`kubectl create token SERVICE_ACCOUNT "
            "--audience=pipelines.kubeflow.org`)"
        )
    if error.status == 403:
        return ClusterError(
            f"{reason}; the account lacks the permission: see manifests/ for its role"
        )
    if error.status in _TRANSIENT or not error.status:
        return UnreachableError(f"{reason}; gave up after up to {NUM_RETRIES} retries")
    known = {404: NotFoundError, 409: ClusterConflictError}
    return known.get(error.status, ClusterError)(reason)


def _message(error: api.ApiException) -> str:
    """The server's message: JSON of gRPC or of the upload, or whatever a proxy sends."""
    try:
        body = json.loads(error.body or "")
        message = body.get("message") or body.get("error_message") or body.get("error")
    except (ValueError, AttributeError):
        message = error.body
    return str(message or "no reason given").strip()[:500]
