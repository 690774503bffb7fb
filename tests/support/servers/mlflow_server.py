"""A real `mlflow server` with basic auth and SQLite, for tests of permissions."""

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

START_S = 180.0
ADMIN, PASSWORDS = (
    "admin",
    {
        "admin": "an-administrator's-password",
        "product1m-pipeline": "a-pipeline's-password",
        "product1m-reviewer": "a-reviewer's-password",
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
def running_server(folder: Path) -> Iterator[Server]:
    """Start a server on a free port for the block."""
    port = free_port()
    settings = folder / "basic_auth.ini"
    settings.write_text(
        "[mlflow]\ndefault_permission = NO_PERMISSIONS\nadmin_username = admin\n"
        f"database_uri = sqlite:///{folder / 'auth.db'}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        "grant_default_workspace_access = false\n"
        "auth_cache_ttl_seconds = 300\n"  # a password is hashed once, not for every request
    )
    environment = os.environ | {
        "MLFLOW_AUTH_CONFIG_PATH": str(settings),
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORDS[ADMIN],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "of a test",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
        environment.pop(name, None)
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1"),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
        *("--artifacts-destination", str(folder / "files")),
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
