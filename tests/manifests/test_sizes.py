"""What the manifests and a profile request, against the nodes that the README promises to fit."""

import re
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from pipelines.graph.resources import PROFILES
from tests.support.manifests.build import MANIFESTS, overlay
from tests.support.manifests.policies import Resource, of_kind, pod_templates

WAIT_FOR = MANIFESTS / "base/mlflow/wait_for.py"
UNITS = {"m": 1e-3, "": 1.0, "Mi": 2.0**20, "Gi": 2.0**30}
OTHERS_CPU, OTHERS_GIB = 0.95 + 0.7, 3.0
"""What kind's own pods and Kubeflow Pipelines standalone request."""


def quantity(text: object) -> float:
    """A Kubernetes quantity as a number."""
    found = re.fullmatch(r"([\d.]+)(\D*)", str(text))
    assert found, text
    return float(found[1]) * UNITS[found[2]]


def requested(resources: list[Resource], key: str) -> float:
    """By all pods together; an init container counts where it asks for more."""
    total = 0.0
    for resource in of_kind(resources, "Deployment", "StatefulSet", "Job"):
        replicas = resource["spec"].get("replicas", 1)
        spec = resource["spec"]["template"]["spec"]
        pods = [
            sum(
                quantity(container["resources"]["requests"][key])
                for container in spec["containers"]
            ),
            *(
                quantity(container["resources"]["requests"][key])
                for container in spec.get("initContainers", [])
            ),
        ]
        total += replicas * max(pods)
    return total


def test_the_local_overlay_and_a_step_fit_a_node_of_two_cpus_and_eight_gib() -> None:
    resources = overlay("local")
    step = PROFILES["laptop"]["capture_pretraining"].requests
    driver_cpu = 0.1
    assert requested(resources, "cpu") + OTHERS_CPU <= 2.001, "all start-up jobs at once"
    servers = of_kind(resources, "Deployment", "StatefulSet")
    assert requested(servers, "cpu") + OTHERS_CPU + quantity(step["cpu"]) + driver_cpu <= 2.001
    memory = requested(resources, "memory") + OTHERS_GIB * 2**30 + quantity(step["memory"])
    assert memory <= 8 * 2**30


def test_one_small_mlflow_runs_locally_and_two_in_production() -> None:
    replicas = {
        name: of_kind(overlay(name), "Deployment")[0]["spec"]["replicas"]
        for name in ("local", "production")
    }
    assert replicas == {"local": 1, "production": 2}
    (local,) = of_kind(overlay("local"), "Deployment")
    args = local["spec"]["template"]["spec"]["containers"][0]["args"]
    assert "--workers=1" in args
    assert "--workers=2" not in args


@pytest.mark.parametrize(
    ("owner", "container"),
    [
        ("Job/make-buckets", "wait-for-s3"),
        ("Job/mlflow-migration", "wait-for-database"),
        ("Job/mlflow-roles", "wait-for-mlflow"),
    ],
)
def test_a_start_up_job_waits_for_its_server(owner: str, container: str) -> None:
    (pod,) = (found for found in pod_templates(overlay("local")) if found.owner == owner)
    assert pod.containers[0]["name"] == container
    assert "/scripts/wait_for.py" in str(pod.containers[0])


def wait_for(address: str, timeout_s: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(WAIT_FOR), address],
        env={"TIMEOUT_S": timeout_s},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_waiting_ends_when_the_server_answers_or_the_time_is_up() -> None:
    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401 if self.path == "/health" else 503)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Health) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        assert wait_for(f"http://127.0.0.1:{port}/health", "0").returncode == 0
        assert wait_for(f"postgresql://127.0.0.1:{port}", "0").returncode == 0
        starting = wait_for(f"http://127.0.0.1:{port}/starting", "0")
        assert starting.returncode == 1
        assert "503" in starting.stderr
        server.shutdown()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        gone = wait_for(f"postgresql://127.0.0.1:{free.getsockname()[1]}", "0")
    assert gone.returncode == 1
    assert "does not answer" in gone.stderr
