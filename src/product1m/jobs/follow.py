"""Following a TrainJob: the log of its first node, how long it waits and runs, why it failed."""

import logging
import sys
import time
from collections import deque

from product1m.config import TrainingJobConfig
from product1m.errors import TrainingError
from product1m.jobs.kubernetes_api import INDEX, NODE, Cluster, Json, LogCutError

logger = logging.getLogger(__name__)

NUM_LAST_LINES = 30
"""Of a failed pod's log, read for the reason (ours)."""
WAITING_REPORT_S = 60.0
MAX_CUTS = 5
"""How often the end of a log is asked for (ours)."""
OVERLAP_S = 5
"""A log that is asked for anew overlaps the end of the last by so much (ours)."""


class Follower:
    """Watches one TrainJob until its end."""

    def __init__(self, cluster: Cluster, name: str, job: TrainingJobConfig, poll_s: float) -> None:
        self._cluster, self._name, self._job, self._poll_s = cluster, name, job, poll_s
        self._pending_since: float | None = time.monotonic()
        self._running_since: float | None = None
        self._reported = 0.0
        self._last_time = ""
        self._last_read = time.monotonic()

    def follow(self) -> None:
        """Pass the log of node 0 on until the job is complete; TrainingError if it is not."""
        while True:
            job = self._cluster.get(self._name)
            if job is None:
                raise TrainingError(f"TrainJob {self._name}: somebody removed it while it ran")
            pods = self._cluster.pods(self._name)
            newest = _newest_by_node(pods)
            for one in job.get("status", {}).get("conditions", []):
                if one["status"] == "True" and one["type"] == "Failed":
                    raise self._failed(one, pods)
                if one["status"] == "True" and one["type"] == "Complete":
                    self._read_rest(newest)
                    logger.info("TrainJob %s: complete", self._name)
                    return
            self._check_patience(job, newest)
            self._read_log(newest)
            time.sleep(self._poll_s)

    def _check_patience(self, job: Json, pods: list[Json]) -> None:
        now = time.monotonic()
        started = [pod for pod in pods if pod["status"].get("phase") in ("Running", "Succeeded")]
        if len(started) >= self._job.num_nodes:
            self._pending_since = None
            self._running_since = self._running_since or now
        elif self._pending_since is None:
            self._pending_since = now
        if self._pending_since is not None and now - self._reported > WAITING_REPORT_S:
            self._reported = now
            logger.info(
                "TrainJob %s: %d of %d nodes run; %s",
                *(self._name, len(started), self._job.num_nodes, why_pending(job, pods)),
            )
        for since, limit, doing in (
            (self._pending_since, self._job.max_pending_s, "pending"),
            (self._running_since, self._job.max_running_s, "running"),
        ):
            if since is not None and now - since > limit:
                raise TrainingError(
                    f"TrainJob {self._name}: {doing} for more than training_job.max_{doing}_s = "
                    f"{limit} s, {len(started)} of {self._job.num_nodes} nodes run: "
                    f"{why_pending(job, pods)}"
                )

    def _read_rest(self, pods: list[Json]) -> None:
        for _ in range(MAX_CUTS):
            if self._read_log(pods):
                return
            time.sleep(self._poll_s)
        logger.warning("TrainJob %s: the end of its log was not to be had", self._name)

    def _read_log(self, pods: list[Json]) -> bool:
        """Pass on what node 0 has logged since; whether its log has ended."""
        if not pods or pods[0]["status"].get("phase") not in ("Running", "Succeeded", "Failed"):
            return False
        since = time.monotonic() - self._last_read
        since_s = int(since) + OVERLAP_S if self._last_time else None
        try:
            for line in self._cluster.log(pods[0]["metadata"]["name"], since_s):
                moment, _, text = line.partition(" ")
                if moment > self._last_time:  # all of one length, to the nanosecond
                    sys.stderr.write(text if text.endswith("\n") else f"{text}\n")
                    self._last_time, self._last_read = moment, time.monotonic()
        except LogCutError:
            return False
        return True

    def _failed(self, failure: Json, pods: list[Json]) -> TrainingError:
        """Why a job failed: what it says, and what its failed pods said last."""
        failed = [pod for pod in pods if pod["status"].get("phase") == "Failed"]
        reasons = []
        for pod in failed:
            name = pod["metadata"]["name"]
            said = deque(self._cluster.last_lines(name, NUM_LAST_LINES), NUM_LAST_LINES)
            reasons.append(f"pod {name} {_how_it_ended(pod)}, it said: {_why(said)}")
        return TrainingError(
            f"TrainJob {self._name}: failed, {failure.get('reason')}: {failure.get('message')}"
            + "".join(f"\n{reason}" for reason in reasons)
        )


def why_pending(job: Json, pods: list[Json]) -> str:
    """What keeps a job's pods from running, as far as Kubernetes says."""
    for one in job.get("status", {}).get("conditions", []):
        if one["type"] == "Suspended" and one["status"] == "True":
            return f"it is suspended: {one.get('message')}"
    if not pods:
        return "it has no pods yet; is the training runtime there, and the quota free?"
    reasons: dict[str, None] = {}
    for pod in pods:
        for one in pod["status"].get("conditions") or []:
            if one["type"] == "PodScheduled" and one["status"] == "False":
                reasons[f"{one.get('reason')}: {one.get('message')}"] = None
        for container in pod["status"].get("containerStatuses") or []:
            waiting = container.get("state", {}).get("waiting")
            if waiting:
                reasons[f"{waiting.get('reason')}: {waiting.get('message') or ''}".strip(": ")] = (
                    None
                )
    return "; ".join(reasons) or "its pods are starting"


def _newest_by_node(pods: list[Json]) -> list[Json]:
    """A restart leaves failed pods behind: of every node the pod that counts, node 0 first."""
    newest: dict[str, Json] = {}
    for pod in pods:
        newest.setdefault(pod["metadata"]["labels"].get(INDEX, "0"), pod)
    return list(newest.values())


def _how_it_ended(pod: Json) -> str:
    for container in pod["status"].get("containerStatuses") or []:
        ended = container.get("state", {}).get("terminated")
        if container["name"] == NODE and ended:
            return f"ended with exit code {ended.get('exitCode')} ({ended.get('reason')})"
    return f"ended ({pod['status'].get('reason') or 'no reason given'})"


def _why(lines: deque[str]) -> str:
    """The lines that tell of an error, or all of them."""
    telling = [line for line in lines if line.startswith("error: ")]
    return " | ".join(telling or lines)
