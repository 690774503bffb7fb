"""Following a TrainJob: the logs of its nodes, its rounds, how long it waits and runs, its end.

A round is one start of all nodes. When a pod of a round fails, JobSet deletes all of them within
seconds and starts the next round, as often as the runtime allows. So every node's log is read while
it is written, and kept.
"""

import logging
import sys
import threading
import time
from collections.abc import Sequence

from product1m.config import TrainingJobConfig
from product1m.errors import RANK_EXIT_CODE, TrainingError
from product1m.jobs.kubernetes_api import INDEX, NODE, Json, LogCutError, TrainJobApi, condition
from product1m.jobs.torchrun import FailureLog

logger = logging.getLogger(__name__)

WAITING_REPORT_S = 60.0
"""Seconds between two reports of pods that do not run (ours)."""
MAX_CUTS = 5
"""How often the end of a log is requested (ours)."""
OVERLAP_S = 5
"""How much a log that is requested again overlaps the end of the last request (ours)."""
MAX_LOG_WAIT_S = 30.0
"""How long to wait for the end of the logs of pods that have ended (ours)."""
SETTLE_S = 10.0
"""After a pod failed, how long to wait for the others of its round to say why they did (ours)."""


class PodLog(threading.Thread):
    """Reads the log of one pod until its end; node 0's goes to standard error."""

    def __init__(self, cluster: TrainJobApi, pod: Json, poll_s: float) -> None:
        self.pod_name: str = pod["metadata"]["name"]
        self.node = int(pod["metadata"]["labels"].get(INDEX, "0"))
        super().__init__(name=f"log of {self.pod_name}", daemon=True)
        self._cluster, self._poll_s = cluster, poll_s
        self.lines = FailureLog()
        self.refusal: TrainingError | None = None
        self.complete = False
        self.container_ended = threading.Event()
        self.closed = threading.Event()

    def run(self) -> None:
        """Read until the container has ended and everything it wrote has been read."""
        last_time, last_read, num_cuts = "", time.monotonic(), 0
        while not self.closed.is_set() and num_cuts < MAX_CUTS:
            ended = self.container_ended.is_set()
            since_s = int(time.monotonic() - last_read) + OVERLAP_S if last_time else None
            try:
                for line in self._cluster.log(self.pod_name, since_s):
                    moment, _, text = line.partition(" ")
                    if moment > last_time:  # all of one length, to the nanosecond
                        self._read(text)
                        last_time, last_read = moment, time.monotonic()
                if ended:
                    self.complete = True
                    return
            except LogCutError:
                num_cuts += ended
            except TrainingError as error:
                self.refusal = error
                return
            self.closed.wait(self._poll_s)

    def _read(self, text: str) -> None:
        self.lines.add(text)
        if self.node == 0:
            sys.stderr.write(text if text.endswith("\n") else f"{text}\n")


class Round:
    """The pods of one start of the nodes."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.logs: dict[str, PodLog] = {}
        """Logs by pod name."""
        self.endings: dict[str, str] = {}
        """How pods ended that did not succeed, by name."""
        self.exit_codes: dict[str, int] = {}
        self.failed_at: float | None = None
        self.reported = False

    def observe(self, pods: Sequence[Json]) -> None:
        """Note which pods have ended, or are gone, according to a list of the job's pods."""
        by_name = {pod["metadata"]["name"]: pod for pod in pods}
        for name, log in self.logs.items():
            pod = by_name.get(name)
            phase = pod["status"].get("phase") if pod else None
            if phase in (None, "Succeeded", "Failed"):
                log.container_ended.set()
            if pod is None:
                self.endings.setdefault(name, "was deleted")
            elif phase == "Failed":
                self.endings[name] = _how_it_ended(pod)
                code = _exit_code(pod)
                if code is not None:
                    self.exit_codes[name] = code
        if self.endings and self.failed_at is None:
            self.failed_at = time.monotonic()

    def settled(self) -> bool:
        """Whether a pod failed, and the others had the time to fail too and to say why."""
        if self.failed_at is None:
            return False
        all_ended = len(self.endings) == len(self.logs) and not any(
            log.is_alive() for log in self.logs.values()
        )
        return all_ended or time.monotonic() - self.failed_at > SETTLE_S

    def wait_for_logs(self) -> None:
        """Wait until the logs of pods that have ended are read."""
        deadline = time.monotonic() + MAX_LOG_WAIT_S
        for log in self.logs.values():
            if log.container_ended.is_set():
                log.join(max(0.0, deadline - time.monotonic()))

    def permanent_failures(self) -> list[str]:
        """Pods whose step reported an error that another round would only repeat."""
        return [
            name
            for name in self.endings
            if self.logs[name].lines.has_message
            and self.exit_codes.get(name, RANK_EXIT_CODE) == RANK_EXIT_CODE
        ]

    def reasons(self, names: Sequence[str] = ()) -> str:
        """How pods ended, with the reasons from their logs; by default every pod that failed."""
        shown = names or [name for name in self.endings if name in self.exit_codes] or self.endings
        return "\n".join(
            f"pod {name} {self.endings[name]}: {self.logs[name].lines.reason()}" for name in shown
        )


class Follower:
    """Watches one TrainJob until its end."""

    def __init__(
        self, cluster: TrainJobApi, name: str, job: TrainingJobConfig, poll_s: float
    ) -> None:
        self._cluster, self._name, self._job, self._poll_s = cluster, name, job, poll_s
        self._pending_since: float | None = time.monotonic()
        self._running_since: float | None = None
        self._reported_at = time.monotonic()
        self._round = Round(1)
        self._known: set[str] = set()

    def follow(self) -> None:
        """Pass the log of node 0 on until the job is complete; TrainingError if it fails."""
        try:
            while not self._is_complete():
                time.sleep(self._poll_s)
        finally:
            for log in self._round.logs.values():
                log.closed.set()

    def _is_complete(self) -> bool:
        """Look at the job and its pods once; TrainingError if it cannot be completed."""
        job = self._cluster.get(self._name)
        if job is None:
            raise TrainingError(f"TrainJob {self._name}: somebody deleted it while it ran")
        pods = self._cluster.pods(self._name)
        self._start_logs(pods)
        self._round.observe(pods)
        if failure := condition(job, "Failed"):
            self._round.wait_for_logs()
            self._raise_if_permanent()
            raise TrainingError(
                f"TrainJob {self._name}: failed, {failure.get('reason')}: {failure.get('message')}"
                f"\n{self._round.reasons()}".rstrip()
            )
        if condition(job, "Complete"):
            self._finish()
            return True
        if self._round.settled():
            self._report_round()
        self._check_time(job, _newest_by_node(pods))
        return False

    def _start_logs(self, pods: Sequence[Json]) -> None:
        """Read the log of every pod that has started; a second pod of a node is a new round."""
        for pod in reversed(_newest_by_node(pods)):
            name = pod["metadata"]["name"]
            if name in self._known:
                continue
            log = PodLog(self._cluster, pod, self._poll_s)
            if any(known.node == log.node for known in self._round.logs.values()):
                self._round.observe(pods)
                self._report_round()
                self._round = Round(self._round.number + 1)
            if pod["status"].get("phase") in ("Running", "Succeeded", "Failed"):
                self._known.add(name)
                self._round.logs[name] = log
                log.start()
        for log in self._round.logs.values():
            if log.refusal:
                raise log.refusal

    def _report_round(self) -> None:
        """Log that a round ended and why; TrainingError if the next would end in the same way."""
        if self._round.reported:
            return
        self._round.reported = True
        self._round.wait_for_logs()
        self._raise_if_permanent()
        reasons = self._round.reasons()
        if self._round.number > self._job.max_restarts:
            raise TrainingError(
                f"TrainJob {self._name}: round {self._round.number} failed, and "
                f"training_job.max_restarts is {self._job.max_restarts}\n{reasons}"
            )
        logger.warning(
            "TrainJob %s: round %d ended; the nodes start again from the last checkpoint\n%s",
            *(self._name, self._round.number, reasons),
        )
        self._running_since = None
        self._pending_since = self._reported_at = time.monotonic()

    def _raise_if_permanent(self) -> None:
        if names := self._round.permanent_failures():
            raise TrainingError(f"TrainJob {self._name}: failed\n{self._round.reasons(names)}")

    def _finish(self) -> None:
        """Read the rest of node 0's log."""
        for log in self._round.logs.values():
            log.container_ended.set()
        self._round.wait_for_logs()
        if not all(log.complete for log in self._round.logs.values() if log.node == 0):
            logger.warning("TrainJob %s: the end of its log could not be read", self._name)
        logger.info("TrainJob %s: complete", self._name)

    def _check_time(self, job: Json, pods: list[Json]) -> None:
        """Report what the nodes do, and raise TrainingError when they take too long."""
        now = time.monotonic()
        started = [pod for pod in pods if pod["status"].get("phase") in ("Running", "Succeeded")]
        if len(started) >= self._job.num_nodes:
            if self._pending_since is not None:
                logger.info("TrainJob %s: all %d nodes run", self._name, self._job.num_nodes)
            self._pending_since = None
            self._running_since = self._running_since or now
        elif self._pending_since is None:
            self._pending_since = self._reported_at = now
        if self._pending_since is not None and now - self._reported_at > WAITING_REPORT_S:
            self._reported_at = now
            logger.info(
                "TrainJob %s: %d of %d nodes run; %s",
                *(self._name, len(started), self._job.num_nodes, why_pending(job, pods)),
            )
        for since, limit, state in (
            (self._pending_since, self._job.max_pending_s, "pending"),
            (self._running_since, self._job.max_running_s, "running"),
        ):
            if since is not None and now - since > limit:
                raise TrainingError(
                    f"TrainJob {self._name}: {state} for more than training_job.max_{state}_s = "
                    f"{limit} s, {len(started)} of {self._job.num_nodes} nodes run: "
                    f"{why_pending(job, pods)}"
                )


def why_pending(job: Json, pods: list[Json]) -> str:
    """What keeps a job's pods from running, according to Kubernetes."""
    if suspended := condition(job, "Suspended"):
        return f"it is suspended: {suspended.get('message')}"
    if not pods:
        return "it has no pods yet; does the training runtime exist, and is there quota left?"
    reasons: dict[str, None] = {}
    for pod in pods:
        for item in pod["status"].get("conditions") or []:
            if item["type"] == "PodScheduled" and item["status"] == "False":
                reasons[f"{item.get('reason')}: {item.get('message')}"] = None
        for container in pod["status"].get("containerStatuses") or []:
            waiting = container.get("state", {}).get("waiting")
            if waiting:
                reason = f"{waiting.get('reason')}: {waiting.get('message') or ''}".strip(": ")
                reasons[reason] = None
    return "; ".join(reasons) or "its pods are starting"


def _newest_by_node(pods: Sequence[Json]) -> list[Json]:
    """The newest pod of every node, node 0 first; a restart may leave failed pods behind."""
    newest: dict[str, Json] = {}
    for pod in pods:
        newest.setdefault(pod["metadata"]["labels"].get(INDEX, "0"), pod)
    return list(newest.values())


def _terminated(pod: Json) -> Json:
    for container in pod["status"].get("containerStatuses") or []:
        if container["name"] == NODE:
            return dict(container.get("state", {}).get("terminated") or {})
    return {}


def _exit_code(pod: Json) -> int | None:
    return _terminated(pod).get("exitCode")


def _how_it_ended(pod: Json) -> str:
    if ended := _terminated(pod):
        return f"ended with exit code {ended.get('exitCode')} ({ended.get('reason')})"
    return f"ended ({pod['status'].get('reason') or 'no reason given'})"
