"""Following a run: its tasks as they change, a line every few seconds, through lost connections."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

import kfp_server_api as api

from pipelines.cluster.api import Cluster, UnreachableError
from pipelines.cluster.tasks import FINAL_STATES, graph_of, state_of, task_states

logger = logging.getLogger(__name__)

EXIT_CODES = {"SUCCEEDED": 0, "FAILED": 1, "CANCELED": 3, "SKIPPED": 3}
"""A run's final state to the command's exit code; 2 is a mistake of the caller's."""
EXIT_LOST = 4
"""The run goes on, but nobody could be asked about it."""
MAX_PAUSE_S = 30.0


@dataclass(frozen=True)
class Pace:
    """How often to ask and to tell, and how long to wait for a server that is away."""

    poll_s: float = 5.0
    tell_s: float = 15.0
    patience_s: float = 900.0


PACE = Pace()


class LostError(UnreachableError):
    """The cluster did not answer for longer than the patience."""


def follow(cluster: Cluster, run_id: str, pace: Pace) -> api.V2beta1Run:
    """The run when it has ended; LostError names the command that takes up again."""
    graph: Mapping[str, str] = {}
    before: dict[str, str] = {}
    told = 0.0
    while True:
        run = _patiently(cluster, run_id, pace)
        graph = graph or graph_of(cluster, run)
        states = task_states(run, graph)
        for task in states:
            if task.state != before.get(task.key, "PENDING"):
                length = f" after {task.seconds:.0f} s" if task.seconds else ""
                fields = {"task": task.name, "state": task.state, "seconds": task.seconds}
                logger.info("%s: %s%s", task.name, task.state, length, extra={"fields": fields})
            before[task.key] = task.state
        if run.state in FINAL_STATES:
            return run
        if time.monotonic() - told >= pace.tell_s:
            told = time.monotonic()
            running = [task.name for task in states if task.state == "RUNNING"]
            done = sum(task.state == "SUCCEEDED" for task in states)
            logger.info(
                "%s, %d of %d tasks done%s",
                state_of(run),
                done,
                len(states),
                f", running: {', '.join(running)}" if running else "",
                extra={"fields": {"run": run_id, "state": run.state, "done": done}},
            )
        time.sleep(pace.poll_s)


def _patiently(cluster: Cluster, run_id: str, pace: Pace) -> api.V2beta1Run:
    """The run, asked for again and again while the server is away."""
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
                    f"{error}\nnot reachable for {now - lost:.0f} s; the run goes on without this "
                    f"command: `python -m pipelines runs follow {run_id}` takes up again"
                ) from error
            logger.warning("%s; asking again in %.0f s", error, pause)
            time.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE_S)
        else:
            if lost is not None:
                logger.info("the cluster answers again")
            return run
