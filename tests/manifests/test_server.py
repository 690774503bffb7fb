import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.manifests.build import MANIFESTS, overlay
from tests.support.manifests.policies import PROBES, Resource, of_kind
from tests.support.servers.ports import free_port

ADMIN = ("admin", "a-password-of-the-test")
SECRETS = {
    ("mlflow-database", "password"): "unused by SQLite",
    ("mlflow-admin", "username"): ADMIN[0],
    ("mlflow-admin", "password"): ADMIN[1],
    ("mlflow-session", "secret-key"): "a key of the test",
}
WAIT_FOR_SCHEMA = MANIFESTS / "base/mlflow/wait_for_schema.py"


@dataclass(frozen=True)
class Server:
    """The container `mlflow` of the production overlay, on SQLite and a folder."""

    container: Resource
    environment: dict[str, str]
    port: int

    def status(
        self, path: str, host: str, user: tuple[str, str] | None = None, **headers: str
    ) -> int:
        """Of a GET, or with `Origin` a POST."""
        if user:
            headers["Authorization"] = f"Basic {b64encode(':'.join(user).encode()).decode()}"
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            headers={"Host": host, "Content-Type": "application/json", **headers},
            data=b"{}" if "Origin" in headers else None,
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code


def _environment(resources: list[Resource], container: Resource, folder: Path) -> dict[str, str]:
    configs = {config["metadata"]["name"]: config for config in of_kind(resources, "ConfigMap")}
    environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    for source in container["envFrom"]:
        environment |= configs[source["configMapRef"]["name"]]["data"]
    for variable in container["env"]:
        if "value" in variable:
            environment[variable["name"]] = variable["value"]
        elif (key := tuple(variable["valueFrom"]["secretKeyRef"].values())[::-1]) in SECRETS:
            environment[variable["name"]] = SECRETS[key]
    ini = configs[_volume_config(resources, "config")]["data"]["basic_auth.ini"]
    address = environment["MLFLOW_BACKEND_STORE_URI"]
    database = f"sqlite:///{folder}/mlflow.db"
    assert ini.count(address) == 1  # accounts lie where runs lie
    (folder / "basic_auth.ini").write_text(ini.replace(address, database), "utf-8")
    return environment | {
        "MLFLOW_BACKEND_STORE_URI": database,
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "basic_auth.ini"),
        "MLFLOW_ARTIFACTS_DESTINATION": str(folder / "artifacts"),
        "HOME": str(folder),
        "TMPDIR": str(folder),
    }


def _volume_config(resources: list[Resource], volume: str) -> str:
    (deployment,) = of_kind(resources, "Deployment")
    volumes = deployment["spec"]["template"]["spec"]["volumes"]
    return str(next(v["configMap"]["name"] for v in volumes if v["name"] == volume))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    resources = overlay("production")
    (deployment,) = of_kind(resources, "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    folder = tmp_path_factory.mktemp("server")
    port = free_port()
    changed = {"--port=5000": f"--port={port}", "--workers=2": "--workers=1"}
    program, *arguments = [changed.get(word, word) for word in _command(container)]
    environment = _environment(resources, container, folder)
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [str(Path(sys.executable).parent / program), *arguments],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            _wait_for_port(port, process, folder / "log")
            yield Server(container, environment, port)
        finally:
            process.terminate()


def _command(container: Resource) -> list[str]:
    return [*container["command"], *container["args"]]


def _wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    pytest.fail(f"the server did not start:\n{log.read_text()[-3000:]}")


def test_the_server_answers_its_probes(server: Server) -> None:
    for probe in PROBES:
        path = server.container[probe]["httpGet"]["path"]
        # The kubelet calls a pod by its address, which is no listed name.
        assert server.status(path, host="10.244.1.7:5000") == 200
    startup = server.container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 4 * 40  # busy nodes are slower


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("mlflow.product1m-mlflow.svc.cluster.local:5000", 200),
        ("mlflow.product1m-mlflow.svc.cluster.local", 200),
        ("mlflow:5000", 200),
        ("localhost:5000", 200),
        ("mlflow.example.com", 200),
        ("attacker.example", 403),
        ("mlflow.attacker.example", 403),
        ("mlflow.product1m-mlflow:80", 403),
    ],
)
def test_the_server_answers_to_its_listed_names_alone(
    server: Server, host: str, expected: int
) -> None:
    experiment = "/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
    assert server.status(experiment, host, ADMIN) == expected


def test_the_server_knows_nobody_without_a_password(server: Server) -> None:
    experiment = "/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
    assert server.status(experiment, "mlflow:5000") == 401
    assert server.status(experiment, "mlflow:5000", ("admin", "password1234")) == 401


def test_a_page_of_another_origin_changes_nothing(server: Server) -> None:
    search = "/api/2.0/mlflow/experiments/search"
    page = {"path": search, "host": "mlflow.example.com", "user": ADMIN}
    assert server.status(**page, Origin="https://attacker.example") == 403  # type: ignore[arg-type]
    assert server.status(**page, Origin="https://mlflow.example.com") != 403  # type: ignore[arg-type]


def _wait_for_schema(database: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(WAIT_FOR_SCHEMA)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "MLFLOW_BACKEND_STORE_URI": database, "TIMEOUT_S": "0"},
    )


def test_a_pod_waits_for_the_schema_until_both_parts_are_there(
    server: Server, tmp_path: Path
) -> None:
    done = _wait_for_schema(server.environment["MLFLOW_BACKEND_STORE_URI"])
    assert done.returncode == 0, done.stderr
    waiting = _wait_for_schema(f"sqlite:///{tmp_path}/empty.db")
    assert waiting.returncode == 1
    assert "alembic_version is at None" in waiting.stderr
    assert "job/mlflow-migration" in waiting.stderr
