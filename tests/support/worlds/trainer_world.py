"""A cluster with Kubeflow Trainer, in memory: TrainJobs, their pods, logs and rounds.

What a TrainJob would do on nodes is a function a test passes in: it gets the job, the node's number
and where to log, and returns an exit code.
"""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

Json = dict[str, Any]
MAX_WAIT_S = 60.0
"""How long what is asked for may take before a test goes on without it."""


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
class TrainerWorld:
    """State of the cluster; tests read and change it."""

    run_node: Callable[[Node], int]
    url: str = ""
    jobs: dict[str, Json] = field(default_factory=dict)
    pods: dict[str, Json] = field(default_factory=dict)
    logs: dict[str, list[tuple[float, str]]] = field(default_factory=dict)
    logs_read: dict[str, int] = field(default_factory=dict)
    """Lines of a pod's log that somebody has got; a missing pod's log was never requested."""
    phases_seen: dict[str, str] = field(default_factory=dict)
    """The phase of every pod in the last answer that named it."""
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
    deletion: Literal["seen", "at once", "never"] = "seen"
    """When JobSet deletes the pods of a failed round.

    Once they were seen to fail and their logs were requested, which stands for the 8 s that passed
    on a real cluster; at once; or not while the test lasts.
    """
    _letters: random.Random = field(default_factory=lambda: random.Random(0))
    lock: threading.RLock = field(default_factory=threading.RLock)

    def add_step_pod(self, name: str, work: Path) -> None:
        """The pod of the step that starts jobs, its work volume mounted at `work`."""
        mounts = [
            {"name": "work", "mountPath": str(work)},
            {"name": "shm", "mountPath": "/dev/shm"},
        ]
        owner = {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Workflow",
            "name": "product1m-training-x7k",
            "uid": "11-22",
            "controller": True,
        }
        image = "registry.example/capture@sha256:5e1f"
        self.pods[name] = {
            "metadata": {"name": name, "labels": {}, "ownerReferences": [owner]},
            "spec": {
                "containers": [
                    {"name": "wait", "image": "argoexec:v3"},
                    {"name": "main", "image": image, "volumeMounts": mounts},
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
        with self.lock:
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

        with self.lock:
            if pod not in self.pods:
                return
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
        """A failed pod: JobSet deletes all pods and creates them again, as often as it may."""
        name = body["metadata"]["name"]
        if self.deletion == "never":
            return
        if self.deletion == "seen":
            self.wait_until(lambda: self._was_seen(name))
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

    def _was_seen(self, name: str) -> bool:
        """Whether whoever follows a job knows of its failed pods and reads the logs of all."""
        with self.lock:
            pods = self._pods_of(name)
            failed = [pod for pod in pods if self.pods[pod]["status"]["phase"] == "Failed"]
            return name not in self.jobs or (
                all(pod in self.logs_read for pod in pods)
                and all(self.phases_seen.get(pod) == "Failed" for pod in failed)
            )

    def wait_until_read(self, line: str) -> None:
        """Wait until somebody has got a log line that contains `line`."""
        self.wait_until(
            lambda: any(
                line in text
                for pod, count in list(self.logs_read.items())
                for _, text in self.logs[pod][:count]
            )
        )

    @staticmethod
    def wait_until(condition: Callable[[], bool]) -> None:
        """Wait until a condition holds; a test that asks in vain fails at what it expects next."""
        deadline = time.monotonic() + MAX_WAIT_S
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.005)

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
        with self.lock:
            self.deleted.append(name)
            del self.jobs[name]
            if name in self.stopped:
                self.stopped[name].set()
            for pod in self._pods_of(name):
                del self.pods[pod]

    def fault(self, method: str, path: str) -> Fault | None:
        """The fault that is due for a request."""
        with self.lock:
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
