"""Steps of a local run start at once: each is a copy of a process that has imported everything.

The imports of a step take up to 6 s of one core while the others wait, and kfp.local starts a new
interpreter for every task. Here only the first step gets one. Beside it a process loads
(`product1m.jobs.preloaded`), and the later steps are its copies.
"""

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from kfp.local import subprocess_task_handler

from product1m.config import STEPS
from product1m.jobs.preloaded import TASK

EXECUTOR = "kfp.dsl.executor_main:executor_main"
"""What runs a component in its process."""
LOADED = (
    "kfp.dsl.executor_main",
    "mlflow.pyfunc",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "matplotlib.backends.backend_agg",
    "sklearn.decomposition",
    "sklearn.feature_extraction.text",
    "sklearn.linear_model",
    "sklearn.model_selection",
    *(f"product1m.steps.{step}" for step in STEPS),
    "product1m.detection.libraries:load_timm",
)
"""The modules of the steps, and what these import only when they need it."""
_start_process = subprocess_task_handler.run_local_subprocess
logger = logging.getLogger(__name__)


class Command(NamedTuple):
    """What the command of a component runs."""

    source: str
    function: str
    arguments: list[str]

    @classmethod
    def of(cls, words: list[str]) -> "Command | None":
        """The parts of a command of KFP's compiler; None for any other command."""
        *shell, source = words[:4]
        named = dict(zip(words[4::2], words[5::2], strict=False))
        function = named.get("--function_to_execute")
        if shell[:2] != ["sh", "-ec"] or EXECUTOR.partition(":")[0] not in shell[2] or not function:
            return None
        return cls(source, function, words[4:])


class StepCopies:
    """Runs the commands of a graph; nothing is loaded for the step that is its `last`."""

    def __init__(self, last: str) -> None:
        self._last = last
        self._loaded: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None

    def run(self, full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
        """Run a command, print what it prints and return its exit code, as kfp.local does."""
        command = Command.of(full_command)
        if command is not None and command.function in STEPS:
            if self._connection is not None:
                code = self._run_copy(self._connection, command, env_vars or {})
                if code is not None:
                    return code
                logger.warning("the loaded process has ended; steps start without it")
            elif command.function != self._last:
                self._load()
        return int(_start_process(full_command, env_vars))

    def close(self) -> None:
        """End the loaded process; a copy that still runs is ended as every step is."""
        if self._connection is not None:
            self._connection.close()
        if self._loaded is not None:
            self._loaded.kill()
            self._loaded.wait()

    def _load(self) -> None:
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        program = [sys.executable, "-m", "product1m.jobs.preloaded"]
        with theirs:
            self._loaded = subprocess.Popen(
                [*program, str(theirs.fileno()), EXECUTOR, *LOADED],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def _run_copy(
        self, connection: socket.socket, command: Command, env_vars: Mapping[str, str]
    ) -> int | None:
        """The exit code of a copy; None if there is no process to copy."""
        with tempfile.TemporaryDirectory(prefix="product1m-task-") as folder:
            component = Path(folder) / "component.py"
            component.write_text(command.source, "utf-8")
            task = {
                "arguments": ["--component_module_path", str(component), *command.arguments],
                "environment": {**env_vars, "_KFP_RUNTIME": "true"},
            }
            (Path(folder) / TASK).write_text(json.dumps(task), "utf-8")
            if not _print_output(connection, folder):
                return None
            return _exit_code(connection)


@contextlib.contextmanager
def steps_start_at_once(last: str) -> Iterator[None]:
    """Within the block, kfp.local runs steps as copies of a loaded process where it can."""
    copies = StepCopies(last)
    # kfp.local has no parameter for it: it calls this function of its module for every task.
    subprocess_task_handler.run_local_subprocess = copies.run
    try:
        yield
    finally:
        subprocess_task_handler.run_local_subprocess = _start_process
        copies.close()


def _print_output(connection: socket.socket, folder: str) -> bool:
    """Start the task of a folder and print what it prints; False if the process has ended."""
    output, theirs = os.pipe()
    with open(output, encoding="utf-8", errors="replace") as lines:  # noqa: PTH123 a descriptor
        try:
            socket.send_fds(connection, [folder.encode()], [theirs])
        except OSError:
            return False
        finally:
            os.close(theirs)
        for line in lines:
            print(line, end="")
    print("\n")
    return True


def _exit_code(connection: socket.socket) -> int:
    """The exit code of the copy, as a shell has it."""
    answer = connection.recv(16)
    code = int(answer) if answer else -signal.SIGKILL
    if code < 0:
        print(signal.strsignal(-code))
        return 128 - code
    return code
