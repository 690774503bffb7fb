"""Allow one run at a time in an output folder; end the steps of a run that was killed."""

import contextlib
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import psutil

from product1m.storage.locks import hold
from product1m.telemetry.processes import ENDING

logger = logging.getLogger(__name__)

GRACE_S = 10.0
"""Time between SIGTERM and SIGKILL (ours)."""


@contextlib.contextmanager
def only_run(output: Path, work: Path) -> Iterator[None]:
    """Lock the output folder; LockedError if another run holds the lock.

    The step of a killed run may still run and write the checkpoints that this run resumes from.
    Such a process, found by its `PRODUCT1M_WORK`, is ended first.
    """
    with hold(output / ".lock", output):
        orphans = [process for process in psutil.process_iter() if _works_in(process, work)]
        if orphans:
            logger.warning("ending %d processes left by a killed run", len(orphans))
        _end(orphans)
        yield


def is_alive(pid: int, since: float) -> bool:
    """Whether the process with this id, started before the Unix time `since`, still runs."""
    try:
        process = psutil.Process(pid)
        return process.create_time() <= since and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextlib.contextmanager
def steps_end_with_run() -> Iterator[None]:
    """Make SIGTERM end the running step within the block, then raise KeyboardInterrupt.

    So does SIGHUP, which a closed terminal sends, unless it is ignored, as `nohup` does.
    """

    def end(_signal: int, _frame: FrameType | None) -> None:
        _end(psutil.Process().children(recursive=True))
        raise KeyboardInterrupt

    ignored = [n for n in ENDING if signal.getsignal(n) == signal.SIG_IGN]
    before = {n: signal.signal(n, end) for n in ENDING if n not in ignored}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _works_in(process: psutil.Process, work: Path) -> bool:
    try:
        return process.pid != os.getpid() and process.environ().get("PRODUCT1M_WORK") == str(work)
    except psutil.Error:
        return False


def _end(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=GRACE_S)
    for process in alive:
        process.kill()
