"""How a training step starts its processes: itself, by `torchrun`, as a TrainJob of many pods."""

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
from importlib import import_module
from pathlib import Path
from types import FrameType

from product1m.artifacts.folder import open_artifact
from product1m.config import StepConfig, TrainingJobConfig, section_model
from product1m.errors import TrainingError

logger = logging.getLogger(__name__)

GRACE_S = 40.0
"""How long `torchrun` may take to end its workers, which it kills after 30 s (ours)."""
NUM_LAST_LINES = 15
"""Of the log, told when the processes fail without saying why (ours)."""
_ERROR = re.compile(
    r"(?:\[rank\d+\]: ?)?"
    r"(?:error: |(?=[\w.]+(?:Error|Exception)\b: )| +traceback : (?=Signal (?!15 )))(?P<what>.+)"
)
_SUMMARY = "torch.distributed."
"""What torchrun itself raises, which only repeats that a process failed."""
_AGENT = "torch/distributed/elastic/multiprocessing"
"""In the line with which torchrun begins to tell, at length, that a process failed."""


def launch(
    step: str, inputs: Sequence[Path], checkpoint: Path, config: StepConfig, job: TrainingJobConfig
) -> dict[str, float]:
    """Run a training step with as many processes as `job` says; its metrics.

    When this process is told to end (SIGTERM), or fails, so do all that it started.

    Raises TrainingError if they fail, and whatever the step raises where it runs in this process.
    """
    if job.num_nodes == job.processes_per_node == 1:
        metrics: dict[str, float] = import_module(f"product1m.steps.{step}").run(
            *inputs, checkpoint, config
        )
        return metrics
    with ended_by_sigterm():
        if job.num_nodes > 1:
            from product1m.jobs import train_job  # needs the Kubernetes client, others do not

            train_job.run(step, inputs, checkpoint, config, job, step_command)
        else:
            _run_torchrun(step, step_command(step, inputs, checkpoint, config), job)
    return open_artifact(checkpoint, step).manifest.metrics


def step_command(
    step: str, inputs: Sequence[Path], checkpoint: Path, config: StepConfig
) -> list[str]:
    """The module and the arguments that run a step with such a section: `torchrun -m …`."""
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
    """Within the block SIGTERM raises SystemExit, so that what was started is cleaned up."""
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


def _run_torchrun(step: str, command: Sequence[str], job: TrainingJobConfig) -> None:
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
            said = pass_on(process.stderr or ())
            process.wait()
        except BaseException:
            _end(process)
            raise
    if process.returncode:
        raise TrainingError(
            f"{step}: torchrun ended with exit code {process.returncode} after at most "
            f"{job.max_restarts} restarts; it said: {said}"
        )


def pass_on(lines: Iterable[str]) -> str:
    """Write lines to standard error; what of them tells why a process failed."""
    last: deque[str] = deque(maxlen=NUM_LAST_LINES)
    errors: dict[str, None] = {}
    of_processes = True
    for line in lines:
        sys.stderr.write(line)
        of_processes &= _AGENT not in line
        if of_processes:
            last.append(line)
        found = _ERROR.match(line)
        if found and not found["what"].startswith(_SUMMARY):
            errors[found["what"].rstrip()] = None
    return " | ".join(errors) or "".join(last).strip()


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
