"""MLflow's client as this project uses it: quiet, with clear errors, and downloads that end.

A server that keeps its artifacts on S3 offers clients presigned addresses, signed for the endpoint
that the server itself uses. A client that cannot reach it waits for minutes to an hour. So
downloads and uploads go through the server, unless `MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD` or
`…_UPLOAD` is set to `true`.
"""

import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from product1m.errors import RegistryError, TrackingError, redacted
from product1m.storage.disk import explain
from product1m.telemetry.environment import environment_set
from product1m.telemetry.mlflow_answer import MAX_RETRIES, require_answer
from product1m.telemetry.mlflow_files import follow_move, require_database, sqlite_path
from product1m.telemetry.mlflow_sqlite import ready_store

DIRECT_DOWNLOADS = "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD"
"""MLflow's variable: `true` fetches files from the store, past the server."""
FIRST_FILE = "MLmodel"
"""A small file that every model has; fetched first, to see whether downloads work."""
FIRST_ANSWER_S, DIRECT_ANSWER_S = 20, 10
"""How long the first file, and the store itself, may take to answer (ours)."""
TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
WHOLE_FILE_S = 600
"""How long the server may take to fetch a large file from its store, before it sends the first
byte; the ingress allows as much (ours)."""

# MLflow reads these when it is imported and at every call. If they are unset, it reports its use
# over the network, and downloads as the server offers.
for _name, _value in (
    ("MLFLOW_DISABLE_TELEMETRY", "true"),
    (DIRECT_DOWNLOADS, "false"),
    ("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "false"),
):
    os.environ.setdefault(_name, _value)

_ORIGINS = ("mlflow", "sqlalchemy", "alembic", "sqlite3", "botocore", "boto3")
"""Packages whose errors are about MLflow's server, its database or its store."""
_MODEL = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<number>\d+)|@(?P<alias>[^/]+))")
_answering: set[str] = set()
"""Servers from which this process has downloaded."""


def import_mlflow() -> Any:
    """MLflow with its pyfunc part, without the warnings it gives about itself."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow
        import mlflow.pyfunc
    return mlflow


def registry_mlflow() -> Any:
    """MLflow, if the environment names a registry; else RegistryError."""
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        raise RegistryError(
            "MLFLOW_TRACKING_URI is not set; set it to the server or database of the registry, "
            "as in MLFLOW_TRACKING_URI=sqlite:///build/sample/mlflow.db"
        )
    mlflow, uri = import_mlflow(), os.environ["MLFLOW_TRACKING_URI"]
    _require_address(uri)
    ready_store(uri)
    follow_move(uri)
    return mlflow


def _require_address(uri: str) -> None:
    try:
        urlsplit(uri)
    except ValueError as error:
        raise TrackingError(f"MLFLOW_TRACKING_URI={uri}: not an address ({error})") from error


@contextmanager
def talking_to_mlflow(action: str, uri: str = "") -> Iterator[None]:
    """Turn an MLflow error that its retries did not fix into a TrackingError with the address.

    MLflow lets errors of its database through: those of SQLite, SQLAlchemy and alembic. A server
    that does not answer at all is reported within a minute, see `mlflow_answer`.
    """
    address = uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    _require_address(address)
    try:
        require_answer(address)
        yield
    except Exception as error:
        if not is_of_mlflow(error):
            raise
        raise TrackingError(f"{action} at MLflow, {address}: {_reason(error, address)}") from error


@contextmanager
def talking_to_registry(action: str, *folders: Path) -> Iterator[Any]:
    """MLflow's client; an MLflow error becomes a RegistryError with action, address and user.

    A SQLite database that does not exist is refused, not created: it holds no version. A full disk
    may be that of the database, or of `folders`, where the block writes too.
    """
    require_database(os.environ.get("MLFLOW_TRACKING_URI", ""))
    mlflow = registry_mlflow()
    uri = mlflow.get_registry_uri()
    try:
        require_answer(uri)
        yield mlflow.MlflowClient()
    except Exception as error:
        if not is_of_mlflow(error):
            raise
        name = os.environ.get("MLFLOW_TRACKING_USERNAME")
        user = f" (user {name})" if name else ""
        raise RegistryError(f"{action} at {uri}{user}: {_reason(error, uri, folders)}") from error


def is_of_mlflow(error: Exception) -> bool:
    """Whether MLflow, its database or its connection raised an error."""
    origin = type(error).__module__.partition(".")[0]
    # SQLAlchemy imports the driver of a database when it first connects.
    return isinstance(error, OSError | ModuleNotFoundError) or origin in _ORIGINS


def _reason(error: Exception, uri: str, folders: Sequence[Path] = ()) -> str:
    """What an error says, without the SQL statement; a full disk or a locked database in words."""
    if isinstance(error, ModuleNotFoundError):
        return (
            f"the database's driver {error.name} is not installed here; install it beside "
            "product1m, or set MLFLOW_TRACKING_URI to the MLflow server"
        )
    database = sqlite_path(uri)
    explained = explain(error, [*folders, *([database] if database else [])])
    return str(explained) if explained else str(error).partition("\n[SQL")[0]


def download(model_uri: str, path: str, folder: Path) -> Path:
    """Fetch a file or folder of a model into `folder`; everything if `path` is empty.

    Args:
        model_uri: as MLflow takes it: `models:/NAME/VERSION`, `models:/NAME@ALIAS`, `models:/ID`.
        path: relative to the model.
        folder: where it goes.

    Raises RegistryError, within a minute if nothing answers, with the address that does not.
    """
    timeout = os.environ.get(TIMEOUT, str(WHOLE_FILE_S))
    with talking_to_registry(f"reading {path or 'the files'} of {model_uri}") as client:
        require_logged(model_uri, client)
        _require_answer(model_uri)
        uri = f"{model_uri}/{path}".rstrip("/")
        with environment_set({TIMEOUT: timeout}):
            files = registry_mlflow().artifacts.download_artifacts(uri, dst_path=str(folder))
    return Path(files)


def require_logged(model_uri: str, client: Any) -> None:
    """RegistryError for a version at a server whose files are not those of a logged model.

    Whoever may make a version chooses its source freely, even the `s3://` address of a stranger,
    which would be read with the credentials of the reader.
    """
    uri = model_uri
    while registry_mlflow().get_tracking_uri().startswith("http") and (
        match := _MODEL.fullmatch(uri)
    ):
        version = (
            client.get_model_version(match["name"], match["number"])
            if match["number"]
            else client.get_model_version_by_alias(match["name"], match["alias"])
        )
        if not version.source.startswith("models:/"):
            raise RegistryError(
                f"{model_uri}: its files are at {redacted(version.source)}, not at this server; "
                "nothing was read there. The step registration makes versions whose files the "
                "server keeps: reject this one"
            )
        uri = version.source


def _require_answer(model_uri: str) -> None:
    """Fetch one small file in a short time, once a process and server.

    MLflow itself waits for minutes, because a server may need that long for a large file.
    """
    mlflow = registry_mlflow()
    server = mlflow.get_tracking_uri()
    if not server.startswith("http") or server in _answering:
        return
    with _short_waits():
        if os.environ[DIRECT_DOWNLOADS].lower() in ("true", "1"):
            _require_store(model_uri)
        else:
            _require_proxy(model_uri, server)
    _answering.add(server)


def _require_proxy(model_uri: str, server: str) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    mlflow = registry_mlflow()
    repository = get_artifact_repository(model_uri)  # asks the server which model that is
    try:
        with tempfile.TemporaryDirectory() as scratch:
            repository.download_artifacts(FIRST_FILE, scratch)
    except (mlflow.exceptions.MlflowException, OSError) as error:
        raise RegistryError(
            f"{server}: the server answers, but sends no file of {model_uri} ({error}); it fetches "
            "files from its own store, so look at the server's log and at its store"
        ) from error


def _require_store(model_uri: str) -> None:
    """RegistryError unless this machine reaches the address that the server gives for a file."""
    import requests
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request, verify_rest_response

    repository = get_artifact_repository(model_uri)
    address = getattr(repository, "repo", repository).artifact_uri
    server, proxied, path = address.partition("/mlflow-artifacts/artifacts")
    if not proxied:  # the registry's files do not go through a server
        return
    endpoint = f"/mlflow-artifacts/presigned{path}/{FIRST_FILE}"
    response = http_request(get_default_host_creds(server), endpoint, "GET")
    if response.status_code in (404, 501):  # MLflow's client falls back to the server
        return
    presigned = verify_rest_response(response, endpoint).json()
    headers = {**presigned.get("headers", {}), "Range": "bytes=0-0"}
    try:
        requests.get(presigned["url"], headers=headers, timeout=DIRECT_ANSWER_S).raise_for_status()
    except requests.RequestException as error:
        store = "{0.scheme}://{0.netloc}".format(urlsplit(presigned["url"]))
        raise RegistryError(
            f"{store}: MLflow gives this address for downloads, and it does not answer here "
            f"({type(error).__name__}); unset {DIRECT_DOWNLOADS} to download through the MLflow "
            "server, or make the address reachable"
        ) from error


def _short_waits() -> AbstractContextManager[None]:
    """MLflow's requests within the block have one retry and a short timeout."""
    return environment_set(
        {
            MAX_RETRIES: "1",
            "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
            TIMEOUT: str(FIRST_ANSWER_S),
        }
    )
