"""A local server that answers as the Kubernetes API does for TrainJobs, their pods and logs.

What a TrainJob would do on nodes is a function a test passes in: it gets the job, the node's number
and where to log, and returns an exit code. Created jobs are checked against the published models of
Kubeflow Trainer and the rules of its CRD.
"""

import json
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml
from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import TrainerV1alpha1TrainJob

NAMESPACE = "shop"
JOBS = f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{NAMESPACE}/trainjobs"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
Json = dict[str, Any]


@dataclass
class Node:
    """A node of a job: where to log, and whether to go on."""

    number: int
    log: Callable[[str], None]
    stopped: threading.Event
    body: Json


@dataclass
class Fault:
    """Answers `method` on a path that contains `path` wrongly, some times."""

    method: str
    path: str
    status: int = 0
    """An HTTP status; 0 resets the connection."""
    times: int = 1
    after: bool = False
    """Do what was asked, then answer wrongly."""
    cut_log_after: int = 0
    """Lines of a log to send before the connection is reset."""


@dataclass
class KubernetesApi:
    """State of the cluster; tests read and change it."""

    run_node: Callable[[Node], int]
    url: str = ""
    jobs: dict[str, Json] = field(default_factory=dict)
    pods: dict[str, Json] = field(default_factory=dict)
    logs: dict[str, list[tuple[float, str]]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    created: list[Json] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    stopped: dict[str, threading.Event] = field(default_factory=dict)
    unschedulable: str = ""
    suspended: bool = False
    restarts: dict[str, int] = field(default_factory=dict)
    max_restarts: int = 3
    """As the runtime of `manifests/base/training` says."""
    restart_delay_s: float = 0.2
    """From a failed pod to the deletion of all; 8 s were seen on a real cluster."""
    _letters: random.Random = field(default_factory=lambda: random.Random(0))
    lock: threading.RLock = field(default_factory=threading.RLock)

    def add_step_pod(self, name: str, work: Path) -> None:
        """The pod of the step that starts jobs, its work volume mounted at `work`."""
        self.pods[name] = {
            "metadata": {
                "name": name,
                "labels": {},
                "ownerReferences": [
                    {
                        "apiVersion": "argoproj.io/v1alpha1",
                        "kind": "Workflow",
                        "name": "product1m-training-x7k",
                        "uid": "11-22",
                        "controller": True,
                    }
                ],
            },
            "spec": {
                "containers": [
                    {"name": "wait", "image": "argoexec:v3"},
                    {
                        "name": "main",
                        "image": "registry.example/capture@sha256:5e1f",
                        "volumeMounts": [
                            {"name": "work", "mountPath": str(work)},
                            {"name": "shm", "mountPath": "/dev/shm"},
                        ],
                    },
                ],
                "volumes": [
                    {"name": "work", "persistentVolumeClaim": {"claimName": "product1m-work"}},
                    {"name": "shm", "emptyDir": {"medium": "Memory"}},
                ],
            },
            "status": {"phase": "Running"},
        }

    def start(self, body: Json) -> None:
        """What Trainer and JobSet do with a new job."""
        name = body["metadata"]["name"]
        self.jobs[name] = body | {"status": {}}
        self.restarts[name] = 0
        if self.suspended:
            self.condition(name, "Suspended", "Suspended", "Trainjob is suspended")
            return
        self._start_round(body)

    def _start_round(self, body: Json) -> None:
        name = body["metadata"]["name"]
        self.stopped[name] = threading.Event()
        for number in range(body["spec"]["trainer"]["numNodes"]):
            self._start_node(body, number, self.stopped[name])
        self._count(name)

    def _start_node(self, body: Json, number: int, stopped: threading.Event) -> None:
        name = body["metadata"]["name"]
        pod = f"{name}-node-0-{number}-{self._suffix()}"
        labels = {
            "jobset.sigs.k8s.io/jobset-name": name,
            "jobset.sigs.k8s.io/replicatedjob-name": "node",
            "batch.kubernetes.io/job-completion-index": str(number),
        }
        status: Json = {"phase": "Pending", "conditions": []}
        created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.logs[pod] = []
        self.pods[pod] = {
            "metadata": {"name": pod, "labels": labels, "creationTimestamp": created},
            "spec": {"containers": [{"name": "node"}]},
            "status": status,
        }
        if self.unschedulable:
            status["conditions"] = [
                {
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "Unschedulable",
                    "message": self.unschedulable,
                }
            ]
            return
        threading.Thread(target=self._run, args=(body, number, pod, stopped), daemon=True).start()

    def _suffix(self) -> str:
        return "".join(self._letters.choices("bcdfghjklmnpqrstvwxz2456789", k=5))

    def _run(self, body: Json, number: int, pod: str, stopped: threading.Event) -> None:
        name = body["metadata"]["name"]

        def log(line: str) -> None:
            self.logs[pod].append((time.time(), line))

        self.pods[pod]["status"]["phase"] = "Running"
        self._count(name)
        code = self.run_node(Node(number, log, stopped, body))
        with self.lock:
            if pod not in self.pods or name not in self.jobs:
                return
            self.pods[pod]["status"] = _ended(code)
            pods = self._pods_of(name)
            if code and not stopped.is_set():
                stopped.set()
                threading.Thread(target=self._fail, args=(body,), daemon=True).start()
            phases = [self.pods[each]["status"]["phase"] for each in pods]
            if phases == ["Succeeded"] * body["spec"]["trainer"]["numNodes"]:
                self.condition(
                    name, "Complete", "AllJobsCompleted", "jobset completed successfully"
                )
        self._count(name)

    def _fail(self, body: Json) -> None:
        """A failed pod: JobSet deletes all pods and makes them anew, as often as it may."""
        name = body["metadata"]["name"]
        time.sleep(self.restart_delay_s)
        with self.lock:
            if name not in self.jobs:
                return
            if self.restarts[name] == self.max_restarts:
                self.condition(
                    name,
                    "Failed",
                    "ReachedMaxRestarts",
                    "jobset failed due to reaching max number of restarts "
                    f"(first failed job: {name}-node-0)",
                )
                self._count(name)
                return
            self.restarts[name] += 1
            for pod in self._pods_of(name):
                del self.pods[pod]
            self._start_round(body)

    def _pods_of(self, name: str) -> list[str]:
        return [pod for pod in self.pods if pod.startswith(f"{name}-node-0-")]

    def _count(self, name: str) -> None:
        """The child Job's counts, which are all that a running TrainJob's status says."""
        phases = [self.pods[pod]["status"]["phase"] for pod in self._pods_of(name)]
        running, done = set(phases) == {"Running"}, set(phases) == {"Succeeded"}
        failed = "Failed" in phases
        if name in self.jobs:
            self.jobs[name]["status"]["jobsStatus"] = [
                {
                    "active": int(bool(phases) and not done and not failed),
                    "failed": int(failed),
                    "name": "node",
                    "ready": int(running),
                    "succeeded": int(done),
                    "suspended": int(self.suspended),
                }
            ]

    def condition(self, name: str, kind: str, reason: str, message: str) -> None:
        """A condition of a job becomes true."""
        self.jobs[name]["status"].setdefault("conditions", []).append(
            {"type": kind, "status": "True", "reason": reason, "message": message}
        )

    def remove(self, name: str) -> None:
        """A job goes, and its pods with it."""
        self.deleted.append(name)
        del self.jobs[name]
        if name in self.stopped:
            self.stopped[name].set()
        for pod in [pod for pod in self.pods if pod.startswith(f"{name}-node")]:
            del self.pods[pod]

    def fault(self, method: str, path: str) -> Fault | None:
        """The fault that is due for a request."""
        for fault in self.faults:
            if fault.times and fault.method == method and fault.path in path:
                fault.times -= 1
                return fault
        return None


def _ended(code: int) -> Json:
    """The status of a pod whose container has ended."""
    reason = "Error" if code else "Completed"
    return {
        "phase": "Failed" if code else "Succeeded",
        "containerStatuses": [
            {
                "name": "node",
                "image": "",
                "imageID": "",
                "ready": False,
                "restartCount": 0,
                "state": {"terminated": {"exitCode": code, "reason": reason}},
            }
        ],
    }


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
    assert all(len(one) <= 65_536 for one in trainer["command"])
    assert len(trainer["env"]) <= 128
    assert not [one for one in trainer["env"] if one["name"].startswith("PET_")], "Trainer's own"
    assert body["spec"]["activeDeadlineSeconds"] >= 1


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: KubernetesApi

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
        if fault:
            self._break(fault)
        else:
            self._send(status, answer)

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
            wanted = dict(one.split("=") for one in query["labelSelector"].split(","))
            found = [
                pod
                for pod in self.api.pods.values()
                if wanted.items() <= pod["metadata"]["labels"].items()
            ]
            return 200, {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": found}
        if path.startswith(f"{PODS}/") and name in self.api.pods:
            return 200, self.api.pods[name]
        return 404, _status(404, "NotFound")

    def _log(self, pod: str, query: dict[str, str], fault: Fault | None) -> None:
        assert query["container"] == "node"
        earliest = time.time() - float(query.get("sinceSeconds", 1e9))
        lines = self.api.logs.get(pod, [])
        if pod not in self.api.pods:  # a log goes with its pod
            self._send(404, _status(404, "NotFound"))
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        sent = told = 0
        while True:
            running = self.api.pods.get(pod, {}).get("status", {}).get("phase") == "Running"
            for moment, line in lines[sent:]:
                sent += 1
                if moment < earliest:
                    continue
                whole = datetime.fromtimestamp(int(moment), UTC).strftime("%Y-%m-%dT%H:%M:%S")
                self._chunk(f"{whole}.{int(moment % 1 * 1e9):09d}Z {line}\n".encode())
                told += 1
                if fault and told == fault.cut_log_after:
                    self._break(fault)
                    return
            if not running:
                break
            time.sleep(0.01)
        self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _send(self, status: int, answer: Json | str) -> None:
        data = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
        self.send_response(status)
        plain = "text/plain" if isinstance(answer, str) else "application/json"
        self.send_header("Content-Type", plain)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _break(self, fault: Fault) -> None:
        if fault.status:
            self._send(fault.status, _status(fault.status, "Forbidden"))
        else:
            self.close_connection = True
            self.connection.close()


def _status(code: int, reason: str) -> Json:
    return {"kind": "Status", "apiVersion": "v1", "code": code, "reason": reason}


@contextmanager
def kubernetes_api(folder: Path, run_node: Callable[[Node], int]) -> Iterator[KubernetesApi]:
    """Serve; `folder` gets a `kubeconfig` that leads here."""
    api = KubernetesApi(run_node)
    handler = type("Handler", (_Handler,), {"api": api})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    api.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    (folder / "kubeconfig").write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "test",
                "clusters": [{"name": "test", "cluster": {"server": api.url}}],
                "users": [{"name": "test", "user": {"token": "secret"}}],
                "contexts": [
                    {
                        "name": "test",
                        "context": {"cluster": "test", "user": "test", "namespace": NAMESPACE},
                    }
                ],
            }
        )
    )
    try:
        yield api
    finally:
        for event in api.stopped.values():
            event.set()
        server.shutdown()
        server.server_close()
        thread.join()
