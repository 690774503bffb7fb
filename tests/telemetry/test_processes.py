"""Processes that are killed take with them what they started."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence

import psutil
import pytest

from tests.support.paths import ROOT


def started(script: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment},
    )  # fmt: skip


def line_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def gone(pids: Sequence[int]) -> bool:
    """Whether all of the processes end; waits for them."""
    processes = []
    for pid in pids:
        try:
            processes.append(psutil.Process(pid))
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(processes, timeout=30)
    return all(process.status() == psutil.STATUS_ZOMBIE for process in alive)


@pytest.mark.parametrize("with_signal", [signal.SIGTERM, signal.SIGKILL])
def test_worker_processes_end_with_their_step(with_signal: signal.Signals) -> None:
    step = started("""
        import psutil, time
        from product1m.synthesis.parallel import WorkerProcesses
        if __name__ == "__main__":
            with WorkerProcesses(2) as workers:
                print(*workers.map(abs, [-1]))
                print(*[child.pid for child in psutil.Process().children(True)], flush=True)
                time.sleep(60)
    """)
    assert line_of(step) == "1"
    workers = [int(pid) for pid in line_of(step).split()]
    assert workers
    step.send_signal(with_signal)
    step.communicate(timeout=30)
    assert gone(workers)


def test_a_step_ends_with_the_run_that_started_it_through_a_shell() -> None:
    run = started("""
        import os, subprocess, sys
        step = "import os, time; from product1m.telemetry.processes import end_with_run;"
        step += "end_with_run(); print(os.getpid(), flush=True); time.sleep(60)"
        environment = {**os.environ, "PRODUCT1M_PARENT": str(os.getpid())}
        subprocess.run(["sh", "-c", f"{sys.executable} -c '{step}'; true"], env=environment)
    """)
    step = int(line_of(run))
    run.kill()
    run.communicate(timeout=30)
    assert gone([step])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_and_a_closed_terminal_let_a_step_clean_up(number: signal.Signals) -> None:
    step = started("""
        import time
        from product1m.telemetry.processes import ended_by_sigterm
        try:
            with ended_by_sigterm():
                print("ready", flush=True)
                time.sleep(60)
        finally:
            print("cleaned up", flush=True)
    """)
    assert line_of(step) == "ready"
    step.send_signal(number)
    rest, _ = step.communicate(timeout=30)
    assert rest == "cleaned up\n"
    assert step.returncode == 128 + number


@pytest.mark.parametrize(("in_kfp", "spared"), [("true", True), ("false", False)])
def test_only_a_process_of_one_step_keeps_its_garbage(in_kfp: str, spared: bool) -> None:
    script = (
        "import gc; from product1m.telemetry.processes import spare_loaded_objects; "
        "spare_loaded_objects(); print(gc.get_freeze_count() > 0)"
    )
    environment = {**os.environ, "_KFP_RUNTIME": in_kfp}
    command = [sys.executable, "-c", script]
    out = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert out.stdout.strip() == str(spared)
