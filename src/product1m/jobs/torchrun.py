"""Training with several processes: `torchrun`, its rounds, and why one failed.

`python -m product1m.jobs.torchrun …` takes torchrun's arguments. It ends with the exit code of the
process that failed; torchrun itself ends with 1 and a long traceback.
"""

import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from product1m.config import StepConfig, TrainingJobConfig, section_model
from product1m.errors import RANK_EXIT_CODE, TrainingError
from product1m.telemetry.cpus import available_cpus
from product1m.telemetry.processes import PARENT, end_with_run

logger = logging.getLogger(__name__)

MODULE = "product1m.jobs.torchrun"
GRACE_S = 40.0
"""How long `torchrun` may take to end its workers, which it kills after 30 s (ours)."""
NUM_LAST_LINES = 15
"""Lines of the log to show when the processes fail without an error message (ours)."""
_MESSAGE = re.compile(r"error: (?P<reason>.+)")
"""How the command line reports an error that a user can fix."""
_CRASH = re.compile(r"(?:\[rank\d+\]: ?)?(?P<reason>[\w.]+(?:Error|Exception)\b: .+)")
_PROCESS = "process failed: "
_TORCHRUN = "torch/distributed/"
"""Part of torchrun's own log lines."""


class FailureLog:
    """Reads the log of training processes for the reason that they failed."""

    def __init__(self) -> None:
        self._messages: dict[str, None] = {}
        self._crashes: dict[str, None] = {}
        self._last: deque[str] = deque(maxlen=NUM_LAST_LINES)

    def add(self, line: str) -> None:
        """Read the next line."""
        line = line.rstrip()
        if match := _MESSAGE.match(line):
            self._messages[match["reason"]] = None
        elif line.startswith(_PROCESS):
            self._crashes[line.removeprefix(_PROCESS)] = None
        elif match := _CRASH.match(line):
            self._crashes[match["reason"]] = None
        if line and _TORCHRUN not in line:
            self._last.append(line)

    @property
    def has_message(self) -> bool:
        """Whether a process reported an error that starting it again would not solve."""
        return bool(self._messages)

    def reason(self) -> str:
        """The steps' own error messages, else exceptions and signals, else the last lines."""
        why = " | ".join(self._messages or self._crashes) or "\n".join(self._last)
        return why or "its log is empty"


def step_command(
    step: str, inputs: Sequence[Path], checkpoint: Path, config: StepConfig
) -> list[str]:
    """The module and arguments that run a step with this section: `torchrun -m …`."""
    reference = section_model(step)().model_dump(mode="json")
    changes = {
        key: value
        for key, value in config.model_dump(mode="json").items()
        if value != reference[key]
    }
    return [
        "product1m",
        step.replace("_", "-"),
        *(str(path.absolute()) for path in (*inputs, checkpoint)),
        "--preset=reference",
        *(f"--set={step}.{key}={json.dumps(value)}" for key, value in changes.items()),
    ]


def run_torchrun(step: str, command: Sequence[str], job: TrainingJobConfig) -> None:
    """Train with the processes of this pod, again from the last checkpoint if one is lost.

    Raises TrainingError at once if a process reports an error that would only repeat itself, else
    after `job.max_restarts` restarts.
    """
    logger.info("%s: %d processes under torchrun", step, job.processes_per_node)
    for restarts in range(job.max_restarts + 1):
        exit_code, reason = _run_round(command, job.processes_per_node)
        if exit_code == 0:
            return
        if exit_code == RANK_EXIT_CODE:
            raise TrainingError(f"{step}: {reason}")
        if restarts < job.max_restarts:
            logger.warning(
                "%s: the processes ended with exit code %d: %s; starting them again from the last "
                "checkpoint (restart %d of %d)",
                *(step, exit_code, reason, restarts + 1, job.max_restarts),
            )
    raise TrainingError(
        f"{step}: the processes ended with exit code {exit_code} after {job.max_restarts} "
        f"restarts: {reason}"
    )


def _run_round(command: Sequence[str], num_processes: int) -> tuple[int, str]:
    """Start the processes, pass their log on, wait for them: exit code, and why they failed."""
    torchrun = [sys.executable, "-m", MODULE, "--standalone", f"--nproc-per-node={num_processes}"]
    threads = max(1, available_cpus() // num_processes)
    log = FailureLog()
    with subprocess.Popen(
        [*torchrun, "-m", *command],
        env={"OMP_NUM_THREADS": str(threads), **os.environ, PARENT: str(os.getpid())},
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        try:
            for line in process.stderr or ():
                sys.stderr.write(line)
                log.add(line)
            process.wait()
        except BaseException:
            _end(process)
            raise
    return process.returncode, log.reason()


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main(arguments: Sequence[str]) -> int:
    """Run torchrun with its arguments; `RANK_EXIT_CODE` if a process ended with it."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    end_with_run()
    os.environ[PARENT] = str(os.getpid())  # of the ranks
    try:
        run.run(run.parse_args(list(arguments)))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values()]
        for rank, failure in error.failures.items():
            if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:  # torchrun's own
                name = signal.Signals(-failure.exitcode).name
                sys.stderr.write(f"{_PROCESS}rank {rank} was ended by {name}\n")
        _, first = error.get_first_failure()
        code = RANK_EXIT_CODE if RANK_EXIT_CODE in codes else int(first.exitcode)
        return code if code > 0 else 128 - code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
