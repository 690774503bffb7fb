"""A real MLflow server with basic auth and SQLite, for tests of permissions.

It is the process that `mlflow server` starts, without the command around it, which would import
everything a second time; tests/manifests/test_server.py starts the command itself.
"""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.servers.ports import free_port
from tests.support.servers.s3_server import BUCKET, S3Server

START_S = 180.0
UVICORN = "import gc; gc.set_threshold(50_000, 20, 20); import uvicorn; uvicorn.main()"
"""Collects garbage less often, which otherwise takes a large part of a short test."""
DATABASES = ("mlflow.db", "auth.db")
STORE = "mlflow-store.test"
"""Name of the S3 server that nobody but the MLflow server can resolve."""
ADMIN, PASSWORDS = (
    "admin",
    {
        "admin": "an-administrator's-password",
        "product1m-pipeline": "a-pipeline's-password",
        "product1m-reviewer": "a-reviewer's-password",
        "product1m-catalogue": "a-catalogue's-password",
        "outsider": "an-outsider's-password",
    },
)


@dataclass(frozen=True)
class Server:
    """A running server."""

    uri: str
    folder: Path

    def environment(self, user: str) -> dict[str, str]:
        """Environment variables of a client of that user."""
        return {
            "MLFLOW_TRACKING_URI": self.uri,
            "MLFLOW_TRACKING_USERNAME": user,
            "MLFLOW_TRACKING_PASSWORD": PASSWORDS[user],
            "MLFLOW_EXPERIMENT_NAME": "product1m-training",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        }

    @contextmanager
    def as_user(self, user: str) -> Iterator[None]:
        """Use that user's environment within the block."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment(user).items():
                patch.setenv(name, value)
            for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
                patch.delenv(name, raising=False)
            yield


@contextmanager
def running_server(folder: Path, s3: S3Server | None = None) -> Iterator[Server]:
    """Start a server on a free port for the block.

    Artifacts lie in `folder`, or in the S3 server under a name that only the MLflow server can
    resolve, as in a cluster.
    """
    port = free_port()
    environment = _environment(folder, f"s3://{BUCKET}/mlflow" if s3 else str(folder / "files"))
    if s3:
        environment |= s3.environment() | _own_name_of(s3, folder / "site")
    command = [
        *(sys.executable, "-c", UVICORN, "--factory", "mlflow.server.auth:create_app"),
        *("--host", "127.0.0.1", "--port", str(port)),
    ]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/health", process, folder / "server.log")
            yield Server(f"http://127.0.0.1:{port}", folder)
        finally:
            end(process)


def _environment(folder: Path, artifacts: str) -> dict[str, str]:
    """Environment of a server that asks for passwords; its settings are written to `folder`."""
    database, accounts = (f"sqlite:///{folder / name}" for name in DATABASES)
    settings = folder / "basic_auth.ini"
    settings.write_text(
        "[mlflow]\ndefault_permission = NO_PERMISSIONS\nadmin_username = admin\n"
        f"database_uri = {accounts}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        "grant_default_workspace_access = false\n"
        "auth_cache_ttl_seconds = 300\n"  # a password is hashed once, not for every request
    )
    environment = os.environ | {
        # What the command passes on of its options.
        "_MLFLOW_SERVER_FILE_STORE": database,
        "_MLFLOW_SERVER_REGISTRY_STORE": database,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": artifacts,
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SGI_NAME": "uvicorn",
        "MLFLOW_AUTH_CONFIG_PATH": str(settings),
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORDS[ADMIN],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "of a test",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_ENABLE_WORKSPACES": "true",  # closes what anyone with an account could create
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
        environment.pop(name, None)
    return environment


def _own_name_of(s3: S3Server, site: Path) -> dict[str, str]:
    """Environment of a Python process that alone knows where the host `STORE` is."""
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import socket\n"
        "resolve = socket.getaddrinfo\n"
        "socket.getaddrinfo = lambda host, *rest, **named: resolve(\n"
        f"    '127.0.0.1' if host == '{STORE}' else host, *rest, **named)\n"
    )
    return {"PYTHONPATH": str(site), "MLFLOW_S3_ENDPOINT_URL": f"http://{STORE}:{s3.port}"}


def wait_for(address: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait until it answers; fail with the end of the log if the process ends before."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    pytest.fail(f"{address} does not answer:\n{log.read_text()[-3000:]}")


def end(process: "subprocess.Popen[bytes]") -> None:
    """End the process and its workers, which form a session of their own."""
    os.killpg(process.pid, 15)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()
