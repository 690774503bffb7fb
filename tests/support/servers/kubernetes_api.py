"""A local server that answers as the Kubernetes API does for TrainJobs, their pods and logs.

Created jobs are checked against the published models of Kubeflow Trainer and the rules of its CRD.
"""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import TrainerV1alpha1TrainJob

from tests.support.servers.kubeconfig import write_kubeconfig
from tests.support.worlds.trainer_world import Fault, Json, Node, TrainerWorld

NAMESPACE = "shop"
JOBS = f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{NAMESPACE}/trainjobs"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"


def check_train_job(body: Json) -> None:
    """What the API server refuses: fields the CRD does not know, values out of its bounds."""
    known = TrainerV1alpha1TrainJob.from_dict(body)
    assert known is not None
    assert known.to_dict() == body, "a field that the CRD does not have"
    name, trainer = body["metadata"]["name"], body["spec"]["trainer"]
    assert re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert len(name) <= 63 - len("-node-0-0-abcde"), "its pods' names would be too long"
    assert len(trainer["image"]) <= 500
    assert len(trainer["command"]) <= 128
    assert all(len(argument) <= 65_536 for argument in trainer["command"])
    assert len(trainer["env"]) <= 128
    assert not [variable for variable in trainer["env"] if variable["name"].startswith("PET_")], (
        "Trainer's own"
    )
    assert body["spec"]["activeDeadlineSeconds"] >= 1


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: TrainerWorld

    def log_message(self, format: str, *args: object) -> None: ...

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_DELETE(self) -> None:
        self._answer("DELETE")

    def _answer(self, method: str) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or "null")
        address = urlsplit(self.path)
        self.api.requests.append((method, address.path))
        fault = self.api.fault(method, address.path)
        if fault and not fault.after and not fault.cut_log_after:
            self._break(fault)
            return
        query = {key: values[0] for key, values in parse_qs(address.query).items()}
        if address.path.endswith("/log"):
            self._log(address.path.split("/")[-2], query, fault)
            return
        with self.api.lock:
            status, answer = self._do(method, address.path, query, body)
            text = json.dumps(answer)
        if fault:
            self._break(fault)
        else:
            self._send(status, text)

    def _do(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Json]:
        if method == "POST" and path == JOBS:
            check_train_job(body)
            if body["metadata"]["name"] in self.api.jobs:
                return 409, _status(409, "AlreadyExists")
            self.api.created.append(body)
            self.api.start(body)
            return 201, body
        name = path.rsplit("/", 1)[-1]
        if path.startswith(f"{JOBS}/") and name in self.api.jobs:
            if method == "DELETE":
                self.api.remove(name)
                return 200, _status(200, "")
            return 200, self.api.jobs[name]
        if path == PODS:
            wanted = dict(pair.split("=") for pair in query["labelSelector"].split(","))
            found = [
                pod
                for pod in self.api.pods.values()
                if wanted.items() <= pod["metadata"]["labels"].items()
            ]
            self.api.phases_seen |= {
                pod["metadata"]["name"]: pod["status"]["phase"] for pod in found
            }
            return 200, {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": found}
        if path.startswith(f"{PODS}/") and name in self.api.pods:
            return 200, self.api.pods[name]
        return 404, _status(404, "NotFound")

    def _log(self, pod: str, query: dict[str, str], fault: Fault | None) -> None:
        assert query["container"] == "node"
        earliest = time.time() - float(query.get("sinceSeconds", 1e9))
        with self.api.lock:
            lines = self.api.logs.get(pod, [])
            exists = pod in self.api.pods  # a log goes with its pod
            if exists:
                self.api.logs_read.setdefault(pod, 0)
        if not exists:
            self._send(404, json.dumps(_status(404, "NotFound")))
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        sent = num_lines = 0
        while True:
            running = self.api.pods.get(pod, {}).get("status", {}).get("phase") == "Running"
            for moment, line in lines[sent:]:
                sent += 1
                if moment < earliest:
                    continue
                whole = datetime.fromtimestamp(int(moment), UTC).strftime("%Y-%m-%dT%H:%M:%S")
                self._chunk(f"{whole}.{int(moment % 1 * 1e9):09d}Z {line}\n".encode())
                self.api.logs_read[pod] = max(self.api.logs_read[pod], sent)
                num_lines += 1
                if fault and num_lines == fault.cut_log_after:
                    self._break(fault)
                    return
            if not running:
                break
            time.sleep(0.01)
        self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _send(self, status: int, answer: str) -> None:
        data = answer.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _break(self, fault: Fault) -> None:
        if fault.status:
            self._send(fault.status, json.dumps(_status(fault.status, "Forbidden")))
        else:
            self.close_connection = True
            self.connection.close()


def _status(code: int, reason: str) -> Json:
    return {"kind": "Status", "apiVersion": "v1", "code": code, "reason": reason}


@contextmanager
def kubernetes_api(folder: Path, run_node: Callable[[Node], int]) -> Iterator[TrainerWorld]:
    """Serve; `folder` gets a `kubeconfig` that leads here."""
    api = TrainerWorld(run_node)
    handler = type("Handler", (_Handler,), {"api": api})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    api.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    write_kubeconfig(folder, api.url, NAMESPACE)
    try:
        yield api
    finally:
        for event in api.stopped.values():
            event.set()
        server.shutdown()
        server.server_close()
        thread.join()
