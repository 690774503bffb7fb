"""Training with several processes in this pod: `torchrun`, its log and its end."""

import contextlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from product1m.config import StepConfig, TrainingJobConfig, section_model
from product1m.errors import TrainingError

logger = logging.getLogger(__name__)

GRACE_S = 40.0
"""How long `torchrun` may take to end its workers, which it kills after 30 s (ours)."""
NUM_LAST_LINES = 15
"""Lines of the log to show when the processes fail without an error message (ours)."""
_ERROR = re.compile(
    r"(?:\[rank\d+\]: ?)?"
    r"(?:error: |(?=[\w.]+(?:Error|Exception)\b: )| +traceback : (?=Signal (?!15 )))(?P<what>.+)"
)
_SUMMARY = "torch.distributed."
"""Start of torchrun's own exceptions, which only repeat that a process failed."""
_AGENT = "torch/distributed/elastic/multiprocessing"
"""Part of the line with which torchrun begins its long summary of a failure."""


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


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Within the block SIGTERM raises SystemExit, so that everything started is cleaned up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(_signal: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_torchrun(step: str, command: Sequence[str], job: TrainingJobConfig) -> None:
    """Start the processes of this pod, pass their log on, wait for them."""
    torchrun = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        f"--nproc-per-node={job.processes_per_node}",
        f"--max-restarts={job.max_restarts}",
    ]
    threads = max(1, len(os.sched_getaffinity(0)) // job.processes_per_node)
    logger.info("%s: %d processes under torchrun", step, job.processes_per_node)
    with subprocess.Popen(
        [*torchrun, "-m", *command],
        env={"OMP_NUM_THREADS": str(threads), **os.environ},
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        try:
            reason = pass_on(process.stderr or ())
            process.wait()
        except BaseException:
            _end(process)
            raise
    if process.returncode:
        raise TrainingError(
            f"{step}: torchrun ended with exit code {process.returncode} after at most "
            f"{job.max_restarts} restarts; last error: {reason}"
        )


def pass_on(lines: Iterable[str]) -> str:
    """Write lines to standard error; why a process failed, according to them."""
    last: deque[str] = deque(maxlen=NUM_LAST_LINES)
    errors: dict[str, None] = {}
    before_summary = True
    for line in lines:
        sys.stderr.write(line)
        before_summary &= _AGENT not in line
        if before_summary:
            last.append(line)
        match = _ERROR.match(line)
        if match and not match["what"].startswith(_SUMMARY):
            errors[match["what"].rstrip()] = None
    return " | ".join(errors) or "".join(last).strip()


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
