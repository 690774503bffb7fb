"""Follow a run and report its tasks as they change, until it ends or a pod cannot start."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import kfp_server_api as api

from pipelines.cluster.api import Cluster, UnreachableError
from pipelines.cluster.diagnosis import look, waiting_pods
from pipelines.cluster.tasks import FINAL_STATES, graph_of, run_state, task_states
from pipelines.local.story import TaskState
from product1m.errors import PipelineError

logger = logging.getLogger(__name__)

EXIT_CODES = {"SUCCEEDED": 0, "FAILED": 1, "CANCELED": 3, "SKIPPED": 3}
"""Exit code of the command by the run's final state; 2 is a mistake in the command."""
EXIT_LOST = 4
"""The cluster does not answer any more; the run continues."""
EXIT_STUCK = 5
"""A pod cannot start; the run waits."""
MAX_PAUSE_S = 30.0
STOP_S = 120.0
"""How long a stopped run may take to end; a pod has 30 s (ours)."""
RESUME_GRACE_S = 60.0
"""How long a resumed run may still be listed with the state it had before (ours)."""


@dataclass(frozen=True)
class Pace:
    """How often to ask and to report, and how long to wait."""

    poll_s: float = 5.0
    report_s: float = 15.0
    patience_s: float = 900.0
    """Longest wait for a server that does not answer."""
    max_wait_s: float = 1800.0
    """Longest wait for a pod that cannot start; 0 waits forever."""


PACE = Pace()


class LostError(UnreachableError):
    """The cluster did not answer for longer than the patience."""


class StuckError(PipelineError):
    """A pod could not start for longer than the maximum wait."""


def follow(cluster: Cluster, run_id: str, pace: Pace, known_states: int = 0) -> api.V2beta1Run:
    """Report the run's progress until it ends; the run as it ended.

    Args:
        known_states: length of the run's history before it was resumed; an end in it does not
            count.

    Raises LostError if the cluster does not answer, StuckError if a pod cannot start; both name the
    commands to continue with.
    """
    watch = _Watch(cluster, run_id, pace)
    graph: dict[str, str] = {}
    grace_ends = time.monotonic() + RESUME_GRACE_S if known_states else 0.0
    reported = 0.0
    while True:
        run = _patiently(cluster, run_id, pace)
        is_old = len(run.state_history or ()) <= known_states and time.monotonic() < grace_ends
        if not is_old:
            graph = graph or graph_of(cluster, run)
            states = task_states(run, graph)
            watch.report_changes(states)
            if run_state(run) in FINAL_STATES:
                return run
            if time.monotonic() - reported >= pace.report_s:
                reported = time.monotonic()
                watch.report_progress(run, states)
                watch.report_waiting(states)
        time.sleep(pace.poll_s)


def wait_for_end(cluster: Cluster, run_id: str, max_wait_s: float = STOP_S) -> bool:
    """Wait until a run has ended, without a report; False if it has not after `max_wait_s`."""
    deadline = time.monotonic() + max_wait_s
    while True:
        run = cluster.call("reading the run", cluster.runs.run_service_get_run, run_id)
        if run_state(run) in FINAL_STATES:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(PACE.poll_s)


@dataclass
class _Watch:
    """What was reported of a run so far."""

    cluster: Cluster
    run_id: str
    pace: Pace
    states: dict[str, str] = field(default_factory=dict)
    """Task to its last reported state."""
    waits: dict[str, tuple[str, datetime]] = field(default_factory=dict)
    """Pod that cannot start to the reason, and when that was first seen."""
    problems: list[str] = field(default_factory=list)

    def report_changes(self, states: Sequence[TaskState]) -> None:
        """A line for every task whose state changed."""
        for task in states:
            if task.state not in (self.states.get(task.key, "PENDING"), "NOT RUN"):
                length = f" after {task.seconds:.0f} s" if task.seconds else ""
                fields = {"task": task.name, "state": task.state, "seconds": task.seconds}
                logger.info("%s: %s%s", task.name, task.state, length, extra={"fields": fields})
            self.states[task.key] = task.state

    def report_progress(self, run: api.V2beta1Run, states: Sequence[TaskState]) -> None:
        """A line for the whole run."""
        running = [task.name for task in states if task.state == "RUNNING"]
        done = sum(task.state in ("SUCCEEDED", "CACHED") for task in states)
        logger.info(
            "%s, %d of %d tasks done%s",
            run_state(run),
            done,
            len(states),
            f", running: {', '.join(running)}" if running else "",
            extra={"fields": {"run": self.run_id, "state": run_state(run), "done": done}},
        )

    def report_waiting(self, states: Sequence[TaskState]) -> None:
        """A line for every pod that cannot start; StuckError after the maximum wait."""
        names = {task.key: task.name for task in states}
        sight = look(self.run_id, self.cluster.namespace)
        for problem in sight.problems:
            if problem not in self.problems:
                self.problems.append(problem)
                logger.info("%s; pods that cannot start are not reported", problem)
        now = datetime.now(UTC)
        waiting = {pod.name: pod for pod in waiting_pods(sight)}
        self.waits = {name: wait for name, wait in self.waits.items() if name in waiting}
        for pod in waiting.values():
            name = names.get(pod.task, pod.task)
            before = self.waits.get(pod.name)
            if before is None or before[0] != pod.waiting:
                logger.warning("%s cannot start: %s", name, pod.waiting)
            since = before[1] if before else pod.waiting_since or now
            self.waits[pod.name] = (pod.waiting, since)
            waited = (now - since).total_seconds()
            if 0 < self.pace.max_wait_s <= waited:
                raise StuckError(
                    f"{name} could not start for {waited / 60:.0f} minutes: {pod.waiting}\n"
                    f"the run still waits: `python -m pipelines runs stop {self.run_id}` ends it, "
                    f"`runs follow {self.run_id} --max-wait 0` waits on"
                )


def _patiently(cluster: Cluster, run_id: str, pace: Pace) -> api.V2beta1Run:
    """The run; the request is repeated while the server does not answer."""
    lost: float | None = None
    pause = pace.poll_s
    while True:
        try:
            run = cluster.call("reading the run", cluster.runs.run_service_get_run, run_id)
        except UnreachableError as error:
            now = time.monotonic()
            lost = now if lost is None else lost
            if now - lost >= pace.patience_s:
                raise LostError(
                    f"{error}\nno answer for {now - lost:.0f} s; the run continues without this "
                    f"command: `python -m pipelines runs follow {run_id}` follows it again"
                ) from error
            logger.warning("%s; asking again in %.0f s", error, pause)
            time.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE_S)
        else:
            if lost is not None:
                logger.info("the cluster answers again")
            return run
