"""A process that has imported what steps need; each task runs in a copy, which starts at once.

    python -m product1m.jobs.preloaded SOCKET MODULE:FUNCTION NAME…

It imports every NAME, a module or `module:function`, which is then called; what cannot be imported
is left out. SOCKET is the number of a connected socket. Each message on it is the folder of a task,
with the file that gets the task's output: the process forks, and the copy calls FUNCTION with the
arguments and the further environment of `TASK`. When the copy has ended its exit code is sent back,
below zero for a signal. The process ends when the other end of the socket is closed.

It has one thread and computes nothing, so a copy inherits no lock and no half-done work.
"""

import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

TASK = "task.json"
"""File with a task's `arguments`, a list, and `environment`, an object."""
_MESSAGE_BYTES = 4096


def main() -> None:
    """Load, then copy this process for every task; in a copy, do the task."""
    number, function, *names = sys.argv[1:]
    on_interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # is sent to the copy too
    # Asking whether there is a GPU would otherwise make GPUs unusable in copies.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    for name in names:
        with contextlib.suppress(ImportError):
            _load(name)
    gc.collect()
    gc.freeze()  # what is loaded stays in memory that all copies share
    with socket.socket(fileno=int(number)) as connection:
        task = _next_task(connection)
    if task is None:
        os._exit(0)  # nothing to clean up
    signal.signal(signal.SIGINT, on_interrupt)
    os.environ.update(task["environment"])
    sys.argv[1:] = task["arguments"]
    _load(function)


def _load(name: str) -> None:
    module, _, function = name.partition(":")
    loaded = importlib.import_module(module)
    if function:
        getattr(loaded, function)()


def _next_task(connection: socket.socket) -> dict[str, Any] | None:
    """The task of this copy; None in the process itself, when there are no more."""
    while True:
        message, files, _, _ = socket.recv_fds(connection, _MESSAGE_BYTES, 1)
        if not message:
            return None
        (output,) = files
        copy = os.fork()
        if not copy:
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.close(output)
            task: dict[str, Any] = json.loads((Path(message.decode()) / TASK).read_text("utf-8"))
            return task
        os.close(output)
        _, status = os.waitpid(copy, 0)
        with contextlib.suppress(BrokenPipeError):  # the run has ended
            connection.send(str(os.waitstatus_to_exitcode(status)).encode())


if __name__ == "__main__":
    main()
