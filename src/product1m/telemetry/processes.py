"""Processes that end in order: SIGTERM cleans up, and a child does not outlive its parent."""

import contextlib
import ctypes
import functools
import gc
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import psutil

PARENT = "PRODUCT1M_PARENT"
"""Environment variable of a step: id of the process that it must not outlive."""
ENDING = (signal.SIGTERM, signal.SIGHUP)
"""What asks a process to end: the system or an operator, and a terminal that is closed."""
_PR_SET_PDEATHSIG = 1
_watched: set[int] = set()


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Within the block SIGTERM raises SystemExit, so that everything started is cleaned up.

    SIGHUP, which a closed terminal sends, does too. Does nothing outside the main thread, or for a
    signal that has a handler already or is ignored, as `nohup` does.
    """

    def end(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    is_main = threading.current_thread() is threading.main_thread()
    own = [n for n in ENDING if is_main and signal.getsignal(n) == signal.SIG_DFL]
    for number in own:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in own:
            signal.signal(number, signal.SIG_DFL)


@functools.cache
def spare_loaded_objects() -> None:
    """In a process of KFP's executor, never look for garbage in what is loaded so far.

    Python would search the libraries' million objects again and again, and for 0.6 s at the end.
    Elsewhere this does nothing: a process that runs several steps would keep their garbage.
    """
    if os.environ.get("_KFP_RUNTIME") == "true":
        gc.freeze()


def end_with_parent(parent: int) -> None:
    """Have the system kill this process when its parent ends, however it ends.

    `parent` is the parent's id: if it has ended already, this process ends at once. Only Linux can
    do this; elsewhere this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def end_with_run() -> None:
    """Send this process SIGTERM when the process that `$PRODUCT1M_PARENT` names has ended.

    It need not be the parent: `kfp.local` starts a shell in between.
    """
    parent = os.environ.get(PARENT, "")
    if parent.isdecimal() and int(parent) not in _watched:
        _watched.add(int(parent))
        threading.Thread(target=_end_after, args=(int(parent),), daemon=True).start()


def _end_after(pid: int) -> None:
    try:
        if sys.platform.startswith("linux"):
            select.select([os.pidfd_open(pid)], [], [])  # psutil waits for zombies too
        else:
            psutil.Process(pid).wait()
    except (ProcessLookupError, psutil.NoSuchProcess):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def this_process() -> str:
    """Host, id and start of this process, for `has_ended`."""
    own = psutil.Process()
    return f"{_machine()} {own.pid} {own.create_time():.2f}"


def has_ended(process: str) -> bool:
    """Whether a process of this machine has ended; False for one of another machine.

    `process` is what `this_process` returned there.
    """
    host, _, rest = process.partition(" ")
    pid, _, started = rest.partition(" ")
    if host != _machine() or not pid.isdigit():
        return False
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" != started
    except psutil.Error:
        return True


def _machine() -> str:
    """The host, and the namespace in which a process has its id."""
    try:
        return f"{socket.gethostname()}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        return socket.gethostname()
