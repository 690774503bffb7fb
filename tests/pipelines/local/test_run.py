"""A run on this machine: its data, its steps, its failures, and what surrounds them."""

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
from typer.testing import CliRunner

from pipelines.__main__ import app
from pipelines.graph.data import check_dataset, data_parameters, with_state
from pipelines.local.kfp_local import run_graph
from pipelines.local.mlflow_run import TrackedRun
from pipelines.local.processes import only_run
from pipelines.local.run import step_environment
from pipelines.local.summary import PRODUCED_BY, verified
from product1m.artifacts.folder import write_artifact
from product1m.config import load_config
from product1m.errors import DatasetError, LockedError, PipelineError, StorageError
from tests.support.paths import ROOT
from tests.support.worlds.other_process import holding_lock
from tests.support.worlds.small_datasets import small_dataset


def test_a_missing_dataset_stops_the_run_before_any_work(tmp_path: Path) -> None:
    arguments = ["run", "--dataset", str(tmp_path / "nope"), "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert f"--dataset {tmp_path / 'nope'}: no such folder" in result.output
    assert not (tmp_path / "out").exists()


def test_a_mistyped_key_stops_the_run_before_any_work(tmp_path: Path) -> None:
    data, out = small_dataset(tmp_path / "data"), tmp_path / "out"
    arguments = ["run", "--dataset", str(data), "--output", str(out), "--set", "indexing.probe=1"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "unknown indexing key 'probe'; did you mean 'probes'" in result.output
    assert not out.exists()


def test_results_do_not_go_into_the_data(tmp_path: Path) -> None:
    data = small_dataset(tmp_path / "data")
    result = CliRunner().invoke(app, ["run", "--dataset", str(data), "--output", str(data / "out")])
    assert result.exit_code == 1
    assert f"{data / 'out'}: is inside {data}" in result.output
    assert not (data / "out").exists()


def test_a_folder_without_lists_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"expected train\.jsonl.*or the Product1M lists"):
        check_dataset(str(tmp_path))
    with pytest.raises(StorageError, match="expected a local folder or s3://BUCKET/PREFIX"):
        check_dataset("ftp://host/data")


def test_backgrounds_beside_the_lists_are_used_and_digested_apart(tmp_path: Path) -> None:
    folder = small_dataset(tmp_path / "data")
    before = with_state(data_parameters(str(folder)))
    assert (before["backgrounds_uri"], before["backgrounds_digest"]) == ("", "none")
    (folder / "backgrounds").mkdir()
    (folder / "backgrounds" / "room.jpg").write_bytes(b"room")
    with_own = with_state(data_parameters(str(folder)))
    assert with_own["backgrounds_uri"] == str(folder / "backgrounds")
    assert with_own["dataset_digest"] == before["dataset_digest"]
    (tmp_path / "rooms").mkdir()
    with_others = with_state(data_parameters(str(folder), str(tmp_path / "rooms")))
    assert with_others["backgrounds_uri"] == str(tmp_path / "rooms")
    assert with_others["backgrounds_digest"] != with_own["backgrounds_digest"]
    with pytest.raises(DatasetError, match=r"--backgrounds .*: no such folder"):
        data_parameters(str(folder), str(tmp_path / "nope"))


@dsl.component(base_image="product1m/test:1", install_kfp_package=False)
def write_text(text: str, config: dict[str, Any], written: dsl.Output[dsl.Dataset]) -> None:
    import logging
    import os
    import sys
    from pathlib import Path

    logging.getLogger("product1m.test").info("writing %s", text)
    if config["fail"] == "own":
        from product1m.errors import DatasetError

        raise DatasetError(f"{text}: three lines\nof one\nmessage")
    if config["fail"] == "other":
        raise ZeroDivisionError("somewhere inside")
    if config["fail"] == "silently":
        os.kill(os.getpid(), 9)
    Path(written.path).mkdir()
    (Path(written.path) / "text").write_text(text + os.environ["TEST_SUFFIX"])
    (Path(written.path) / "writes_bytecode").write_text(str(not sys.dont_write_bytecode))


@dsl.component(base_image="product1m/test:1", install_kfp_package=False)
def double(given: dsl.Input[dsl.Dataset], doubled: dsl.Output[dsl.Dataset]) -> None:
    from pathlib import Path

    Path(doubled.path).mkdir()
    (Path(doubled.path) / "text").write_text((Path(given.path) / "text").read_text() * 2)


class Texts(NamedTuple):
    written: dsl.Dataset
    doubled: dsl.Dataset


@dsl.pipeline(name="test-graph")
def small_graph(text: str, fail: str = "") -> Texts:
    written = write_text(text=text, config={"fail": fail}).outputs["written"]
    return Texts(written, double(given=written).outputs["doubled"])


def run_small(output: Path, cache: str = "", suffix: str = "!", **arguments: str) -> Any:
    output.mkdir(exist_ok=True)
    return run_graph(small_graph, arguments, output, {"TEST_SUFFIX": suffix}, cache)


def test_a_graph_runs_with_its_environment_and_shows_every_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps, outputs = run_small(tmp_path / "out", text="ab")
    assert (Path(outputs["doubled"].path) / "text").read_text() == "ab!ab!"
    assert "TEST_SUFFIX" not in os.environ, "a run leaves the environment as it was"
    assert not any(step.cached for step in steps.values())
    assert all(step.seconds > 0 for step in steps.values())
    shown = capsys.readouterr().out
    for line in ("write_text starts", "writing ab", "write_text done in", "double done in"):
        assert line in shown
    assert "executor_input" not in shown
    assert "executor_input" in (tmp_path / "out" / "run.log").read_text()


def test_steps_log_text_unless_json_is_requested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracked = TrackedRun("sqlite:///mlflow.db", "1", 0, "run-1")
    for variable, expected in ((None, "text"), ("json", "json")):
        monkeypatch.delenv("PRODUCT1M_LOG", raising=False)
        if variable:
            monkeypatch.setenv("PRODUCT1M_LOG", variable)
        assert step_environment(tmp_path, tracked)["PRODUCT1M_LOG"] == expected


def test_a_step_keeps_what_it_compiled_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    _, outputs = run_small(tmp_path / "out", text="ab")
    assert (Path(outputs["written"].path) / "writes_bytecode").read_text() == "True"
    assert os.environ["PYTHONDONTWRITEBYTECODE"] == "1"


def test_an_unchanged_graph_comes_from_the_cache_and_a_changed_one_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, first = run_small(tmp_path / "out", "code-1", text="ab")
    steps, second = run_small(tmp_path / "out", "code-1", text="ab", suffix="?")
    assert [step.cached for step in steps.values()] == [True, True]
    assert second["doubled"].path == first["doubled"].path
    assert "write_text unchanged, taken from the cache" in capsys.readouterr().out
    steps, third = run_small(tmp_path / "out", "code-2", text="ab", suffix="?")
    assert [step.cached for step in steps.values()] == [False, False]
    assert (Path(third["doubled"].path) / "text").read_text() == "ab?ab?"


def test_a_failed_step_is_named_with_its_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(PipelineError) as caught:
        run_small(tmp_path / "out", text="ab", fail="own")
    expected = "write_text failed: DatasetError: ab: three lines\nof one\nmessage\n"
    assert str(caught.value).startswith(expected)
    assert str(tmp_path / "out" / "run.log") in str(caught.value)
    shown = capsys.readouterr().out
    assert "write_text failed after" in shown
    assert "Traceback" not in shown, "errors that a user can fix have no traceback"


def test_a_step_with_a_bug_shows_its_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(PipelineError, match="write_text failed: ZeroDivisionError: somewhere"):
        run_small(tmp_path / "out", text="ab", fail="other")
    assert "Traceback (most recent call last)" in capsys.readouterr().out


def test_a_step_that_is_killed_is_named(tmp_path: Path) -> None:
    message = "write_text failed: it ended without an error message; its last line: Killed"
    with pytest.raises(PipelineError, match=message):
        run_small(tmp_path / "out", text="ab", fail="silently")


def test_missing_results_are_computed_again(tmp_path: Path) -> None:
    output = tmp_path / "out"
    run_small(output, "code", text="ab")
    (output / "pipeline").rename(output / "elsewhere")
    steps, _ = run_small(output, "code", text="ab")
    assert not any(step.cached for step in steps.values()), "the folder is gone"


def test_paths_that_kfp_would_rewrite_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="would replace `python3` in this path"):
        run_small(tmp_path / "python3-out", text="ab")


def artifacts_of_a_run(folder: Path) -> dict[str, dsl.Artifact]:
    outputs = {}
    for name, (step, part) in PRODUCED_BY.items():
        section = getattr(load_config("sample"), step)
        with write_artifact(folder / name, step, section, part=part) as writer:
            (writer.folder / "content").write_text(name)
        outputs[name] = dsl.Artifact(uri=str(folder / name))
    return outputs


def test_a_damaged_artifact_fails_the_run_with_the_steps_name(tmp_path: Path) -> None:
    outputs = artifacts_of_a_run(tmp_path)
    assert set(verified(outputs)) == set(PRODUCED_BY)
    (tmp_path / "index" / "content").write_text("damaged")
    with pytest.raises(
        PipelineError, match=r"indexing wrote no usable artifact 'index': .*damaged"
    ):
        verified(outputs)


def test_a_missing_artifact_fails_the_run_with_the_steps_name(tmp_path: Path) -> None:
    outputs = artifacts_of_a_run(tmp_path)
    (tmp_path / "capture" / "manifest.json").unlink()
    with pytest.raises(PipelineError, match="capture_pretraining wrote no usable artifact"):
        verified(outputs)


def test_two_runs_do_not_share_an_output_folder(tmp_path: Path) -> None:
    expected = rf"{tmp_path}: another run \(pid \d+ on .*, since .*\) is writing here"
    with (
        holding_lock(tmp_path / ".lock"),
        pytest.raises(LockedError, match=expected),
        only_run(tmp_path, tmp_path / "work"),
    ):
        pytest.fail("the second run must not start")


def test_a_step_left_behind_by_a_killed_run_is_ended(tmp_path: Path) -> None:
    work = tmp_path / "work"
    script = "import time; print('ready', flush=True); time.sleep(60)"
    environment = {**os.environ, "PRODUCT1M_WORK": str(work)}
    orphan = subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert orphan.stdout is not None
        assert orphan.stdout.readline() == "ready\n"
        with only_run(tmp_path, work):
            orphan.wait(timeout=10)
    finally:
        orphan.kill()
        orphan.communicate()


def test_sigterm_ends_the_running_step_too() -> None:
    script = """
        import subprocess, sys
        from pipelines.local.processes import steps_end_with_run
        with steps_end_with_run():
            step = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
            print(step.pid, flush=True)
            step.wait()
    """
    run = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert run.stdout is not None
    step = int(run.stdout.readline())
    run.send_signal(signal.SIGTERM)
    _, complaint = run.communicate(timeout=20)
    assert "KeyboardInterrupt" in complaint
    assert not psutil.pid_exists(step)
