"""Steps after the first are copies of a loaded process, and end as any step does."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from kfp import dsl

from pipelines.local import step_copies
from pipelines.local.kfp_local import run_graph
from product1m.errors import PipelineError
from tests.support.paths import ROOT


@dsl.component(base_image="product1m/test:1", install_kfp_package=False)
def indexing(ends_loaded: bool, written: dsl.Output[dsl.Dataset]) -> None:
    import json
    import os
    from pathlib import Path

    import psutil

    if ends_loaded:
        run = psutil.Process(int(os.environ["PRODUCT1M_PARENT"]))
        (loaded,) = [p for p in run.children() if "product1m.jobs.preloaded" in p.cmdline()]
        loaded.kill()
        while loaded.is_running() and loaded.status() != psutil.STATUS_ZOMBIE:
            pass
    Path(written.path).write_text(json.dumps([os.getpid(), os.getppid()]))


@dsl.component(base_image="product1m/test:1", install_kfp_package=False)
def evaluation(
    given: dsl.Input[dsl.Dataset], action: str, written: dsl.Output[dsl.Dataset]
) -> None:
    import json
    import logging
    import os
    import sys
    import time
    from pathlib import Path

    if action == "fail":
        raise ValueError("no such query")
    if action == "killed":
        os.kill(os.getpid(), 9)
    if action.startswith("wait:"):
        Path(action.removeprefix("wait:")).write_text(f"{os.getpid()}\n")
        time.sleep(60)
    logging.getLogger("product1m.test").info("evaluating with %s", os.environ["TEST_SUFFIX"])
    program = sys.modules["__main__"].__spec__
    is_copy = program is not None and program.name == "product1m.jobs.preloaded"
    Path(written.path).write_text(json.dumps([os.getpid(), os.getppid(), is_copy]))


@dsl.component(base_image="product1m/test:1", install_kfp_package=False)
def registration(given: dsl.Input[dsl.Dataset], written: dsl.Output[dsl.Dataset]) -> None:
    import json
    import os
    from pathlib import Path

    Path(written.path).write_text(json.dumps([os.getpid(), os.getppid()]))


class Processes(NamedTuple):
    first: dsl.Dataset
    second: dsl.Dataset
    third: dsl.Dataset


@dsl.pipeline(name="three-steps")
def three_steps(action: str, ends_loaded: bool = False) -> Processes:
    first = indexing(ends_loaded=ends_loaded).outputs["written"]
    second = evaluation(given=first, action=action).outputs["written"]
    return Processes(first, second, registration(given=second).outputs["written"])


def run(output: Path, action: str = "", *, ends_loaded: bool = False) -> list[list[int]]:
    """Run the steps; for each its process and the parent, for the second whether it is a copy."""
    output.mkdir(exist_ok=True)
    arguments: dict[str, Any] = {"action": action, "ends_loaded": ends_loaded}
    _, outputs = run_graph(three_steps, arguments, output, {"TEST_SUFFIX": "the suffix"}, "")
    return [json.loads(Path(outputs[name].path).read_text()) for name in Processes._fields]


@pytest.fixture(autouse=True)
def _little_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading everything takes seconds; one module and one that does not exist will do."""
    monkeypatch.setattr(step_copies, "LOADED", ("kfp.dsl.executor_main", "no_such_module"))


def test_later_steps_are_copies_of_one_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, third = run(tmp_path)
    assert len({first[0], second[0], third[0]}) == 3, "each step has a process of its own"
    assert second[1] == third[1] != first[1]
    assert second[2], "what runs is not KFP's program but the loaded one"
    assert not psutil.pid_exists(second[1]), "the loaded process ends with the run"
    assert "evaluating with the suffix" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("action", "reason"),
    [("fail", "ValueError: no such query"), ("killed", "ended without an .*: Killed")],
)
def test_a_copy_that_fails_is_named_with_its_reason(
    tmp_path: Path, action: str, reason: str
) -> None:
    with pytest.raises(PipelineError, match=f"evaluation failed: .*{reason}"):
        run(tmp_path, action)


def test_steps_run_without_the_loaded_process(tmp_path: Path) -> None:
    *_, is_copy = run(tmp_path, ends_loaded=True)[1]
    assert not is_copy


def test_sigterm_ends_a_running_copy(tmp_path: Path) -> None:
    script = """
        import sys
        from pathlib import Path
        from pipelines.local import step_copies
        from pipelines.local.processes import steps_end_with_run
        from tests.pipelines.local.test_step_copies import run
        step_copies.LOADED = ("kfp.dsl.executor_main",)
        with steps_end_with_run():
            run(Path(sys.argv[1]) / "out", f"wait:{sys.argv[1]}/started")
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    os.mkfifo(tmp_path / "started")
    ran = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    copy = psutil.Process(int((tmp_path / "started").read_text()))
    loaded = copy.parent()
    ran.send_signal(signal.SIGTERM)
    _, complaint = ran.communicate(timeout=30)
    assert "KeyboardInterrupt" in complaint
    assert loaded is not None
    assert has_ended(copy)
    assert has_ended(loaded)


def has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
