"""`runs` on a local run: where it stopped and why, its logs, resuming it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pipelines.__main__ import app
from pipelines.local.record import RunRecord, read_record, recorded
from pipelines.local.run import request_of
from product1m.config import load_config
from tests.support.paths import ROOT
from tests.support.worlds.small_datasets import small_dataset


def runs(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["runs", *map(str, arguments)])


@pytest.fixture(scope="module")
def failure(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The output folder of a local run that failed in its first step, and its command."""
    folder = tmp_path_factory.mktemp("local")
    data = small_dataset(folder / "data")
    for photo in (data / "images").iterdir():
        photo.write_bytes(b"no photo")
    output = folder / "out"
    environment = {key: value for key, value in os.environ.items() if "MLFLOW" not in key}
    return output, subprocess.run(
        [sys.executable, "-m", "pipelines", "run", "--dataset", data, "--output", output],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture
def stopped(failure: tuple[Path, subprocess.CompletedProcess[str]]) -> Path:
    return failure[0]


def test_a_step_that_fails_ends_the_command_with_exit_code_1(
    failure: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    _, ended = failure
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "error: ingestion failed: DatasetError: " in ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr


def test_a_failed_local_run_is_described_the_same_way(stopped: Path) -> None:
    shown = runs("show", stopped).output
    assert "FAILED" in shown.splitlines()[0]
    lines = [line.split() for line in shown.splitlines()]
    assert ["ingestion", "FAILED"] in lines
    assert ["registration", "PENDING"] in lines
    assert "stopped in   ingestion" in shown
    assert "because      DatasetError: " in shown
    assert f"whole log    {stopped / 'run.log'}" in shown
    assert f"`python -m pipelines runs resume {stopped}`" in shown
    steps = [line[0] for line in lines if len(line) == 2 and line[1] == "PENDING"]
    assert steps.index("rpn_training") < steps.index("capture_pretraining")


def test_a_local_runs_log_is_read_by_task(stopped: Path) -> None:
    log = runs("logs", stopped, "--task", "ingestion").output
    assert "DatasetError" in log
    assert "rpn_training" not in log
    assert "no log of 'indexing'" in runs("logs", stopped, "--task", "indexing").output


def test_local_runs_are_listed_with_the_step_they_stopped_in(stopped: Path) -> None:
    (line,) = runs("list", stopped.parent).stdout.splitlines()
    assert line.split()[0] == str(stopped)
    assert line.endswith("FAILED      ingestion")


def test_a_local_run_is_resumed_as_it_was_asked_for(stopped: Path, tmp_path: Path) -> None:
    record = read_record(stopped)
    request = request_of(record)
    assert request.output == stopped
    assert request.dataset == str(stopped.parent / "data")
    assert (request.config, request.preset) == (load_config("sample"), "sample")
    record.request["dataset"] = str(tmp_path / "gone")
    record.write(tmp_path)
    result = runs("resume", tmp_path)
    assert result.exit_code == 1
    assert f"--dataset {tmp_path / 'gone'}: no such folder" in result.output


def test_a_local_run_that_was_killed_is_known(stopped: Path, tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                           capture_output=True, text=True, check=True)  # fmt: skip
    record: RunRecord = read_record(stopped)
    record.state, record.pid, record.error, record.failed_step = (
        "RUNNING",
        int(ended.stdout),
        "",
        "",
    )
    record.write(tmp_path)
    (tmp_path / "run.log").write_text(
        "Executing task 'ingestion'\nTask 'ingestion' finished with status SUCCESS\n"
        "Executing task 'rpn-training'\nepoch 3: loss 0.7\n"
    )
    shown = runs("show", tmp_path).output
    assert "KILLED" in shown.splitlines()[0]
    assert "stopped in   rpn_training" in shown
    assert "epoch 3: loss 0.7" in shown
    record.pid = os.getpid()
    record.write(tmp_path)
    assert "RUNNING" in runs("show", tmp_path).output.splitlines()[0]
    assert "is still running" in runs("resume", tmp_path).output
    record.state = "SUCCEEDED"
    record.write(tmp_path)
    assert "the run succeeded" in runs("resume", tmp_path).output


def test_a_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    result = runs("show", tmp_path)
    assert result.exit_code == 1
    assert "expected the --output folder of `python -m pipelines run`" in result.output
    (tmp_path / "run.json").write_text(json.dumps({"state": "RUNNING"}))
    assert "not a valid run record" in runs("show", tmp_path).output


def test_without_a_cluster_the_runs_below_build_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("KF_PIPELINES_ENDPOINT", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    empty = CliRunner().invoke(app, ["runs", "list"])
    assert empty.exit_code == 0, empty.output
    assert "next: `python -m pipelines run --dataset DIR" in empty.output
    output = tmp_path / "build" / "mine"
    output.mkdir(parents=True)
    with recorded(output, {}, {}, {}):
        pass
    listed = CliRunner().invoke(app, ["runs", "list"])
    assert listed.stdout.startswith("build/mine  2")
    assert "next: `python -m pipelines runs show build/mine`" in listed.stderr
