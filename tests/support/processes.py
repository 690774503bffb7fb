"""Processes that a test starts and kills."""

import signal
import time
from collections.abc import Callable
from multiprocessing import get_context

MAX_WAIT_S = 120.0


def hold_when(condition: Callable[[], object]) -> None:
    """Go no further once a condition holds; for the process that `kill_when` kills."""
    while condition():
        time.sleep(0.01)


def kill_when(condition: Callable[[], object], work: Callable[[], object]) -> None:
    """Do `work` in a process forked from this one, and kill it once a condition holds.

    It starts with everything loaded that this process has loaded. `work` calls `hold_when`, so that
    what it has done when it is killed does not depend on how busy the machine is.
    """
    process = get_context("fork").Process(target=work)
    process.start()
    deadline = time.monotonic() + MAX_WAIT_S
    while not condition():
        assert process.is_alive(), "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
