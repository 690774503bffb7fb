"""The cluster's pipeline API: what is asked of it, with time-outs, retries and clear errors.

Reading is retried by urllib3. Creating is not, since an answer that got lost may have been a yes:
`create_once` looks before it asks again.
"""

import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
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
    """The pipeline API refuses."""


class UnreachableError(ClusterError):
    """No answer, or one that may be another next time."""


class ConflictError(ClusterError):
    """It exists already."""


class NotFoundError(ClusterError):
    """It does not exist."""


class _Client(Client):  # type: ignore[misc]
    """KFP's client for its ways to find an endpoint and credentials."""

    def get_kfp_healthz(self, sleep_duration: int = 5) -> api.V2beta1GetHealthzResponse:  # noqa: ARG002
        """The constructor asks this, without a time-out, only to guess a namespace."""
        return api.V2beta1GetHealthzResponse(multi_user=False)


class Cluster:
    """A pipeline API.

    Args:
        endpoint: its URL; else `KF_PIPELINES_ENDPOINT`, the cluster this runs in, the kubeconfig.
        namespace: the user's, where the installation has several users.
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
        """The namespace as an argument; an installation for one user refuses any."""
        return {"namespace": self.namespace} if self.namespace else {}

    def run_page(self, run_id: str) -> str:
        """Where the KFP UI, which the same address serves, shows a run."""
        return f"{self.endpoint}/#/runs/details/{run_id}"

    def call(self, action: str, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a method of a service; a ClusterError says what was tried where."""
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
        """Everything that a listing method lists, page by page."""
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
        """The experiment's id, made if there is none."""
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


def create_once(create: Callable[[], T], find: Callable[[], T | None]) -> T:
    """What `create` makes, or `find` finds after an answer that left open whether it was made."""
    for attempt in range(NUM_RETRIES + 1):
        try:
            return create()
        except (ConflictError, UnreachableError) as error:
            pause = BACKOFF_S * 2**attempt
            logger.warning("%s; looking again in %.1f s", error, pause)
            time.sleep(pause)
            found = find()
            if found is not None:
                return found
            if isinstance(error, ConflictError) or attempt == NUM_RETRIES:
                raise
    raise AssertionError("unreachable")


def _refusal(where: str, error: api.ApiException) -> ClusterError:
    reason = f"{where}: {error.status} {error.reason}: {_message(error)}"
    if error.status == 401:
        return ClusterError(
            f"{reason}; the credentials are not accepted: put a fresh token in the file that "
            f"${TOKEN_VARIABLE} names (`kubectl create token SERVICE_ACCOUNT "
            "--audience=pipelines.kubeflow.org`)"
        )
    if error.status == 403:
        return ClusterError(f"{reason}; the account may not do this: see manifests/ for its role")
    if error.status in _TRANSIENT or not error.status:
        return UnreachableError(f"{reason}; given up after {NUM_RETRIES} retries where safe")
    known = {404: NotFoundError, 409: ConflictError}
    return known.get(error.status, ClusterError)(reason)


def _message(error: api.ApiException) -> str:
    """What the server says: gRPC's and the upload's JSON differ, a proxy sends anything."""
    try:
        body = json.loads(error.body or "")
        told = body.get("message") or body.get("error_message") or body.get("error")
    except (ValueError, AttributeError):
        told = error.body
    return str(told or "no reason given").strip()[:500]
