"""Logs for machines: one JSON object a line, from a process of its own as a step has it."""

import contextlib
import json
import os
import pty
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from product1m.errors import ConfigError
from product1m.telemetry.logs import VARIABLE, wants_json

STEP = """
    import logging
    logging.basicConfig(format="[KFP Executor %(asctime)s %(levelname)s]: %(message)s",
                        level=logging.INFO)
    from product1m.config import IndexingConfig
    from product1m.telemetry.progress import track
    from product1m.telemetry.tracking import step_run
    with step_run("indexing", IndexingConfig(), "gallery"):
        list(track(range(3), "vectors"))
        BODY
"""


def lines_of_a_step(body: str = "", terminal: bool = False, **environment: str) -> list[str]:
    """Standard error of a process whose standard error is a pipe, or a terminal."""
    inherited = {k: v for k, v in os.environ.items() if "MLFLOW" not in k and k != VARIABLE}
    ours, theirs = pty.openpty() if terminal else os.pipe()
    command = [sys.executable, "-c", textwrap.dedent(STEP).replace("BODY", body or "pass")]
    with subprocess.Popen(command, env=inherited | environment, stderr=theirs):
        os.close(theirs)
        content = b""
        with contextlib.suppress(OSError):  # how a terminal tells that nobody writes to it any more
            while block := os.read(ours, 4096):
                content += block
    os.close(ours)
    return content.decode().splitlines()


def objects(lines: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines if line.startswith("{")]


def test_a_steps_log_lines_are_json_with_the_step_the_run_and_the_figures() -> None:
    lines = lines_of_a_step(PRODUCT1M_LOG="json", PRODUCT1M_PIPELINE_RUN="run-7")
    found = objects(lines)
    assert len(found) == len(lines)
    for line in found:
        assert (line["step"], line["part"], line["pipeline_run"]) == (
            "indexing",
            "gallery",
            "run-7",
        )
        assert line["level"] == "INFO"
    (progress,) = (line for line in found if "done" in line)
    assert progress["message"].startswith("vectors: 3/3, ")
    assert (progress["done"], progress["total"]) == (3, 3)
    assert progress["time"].endswith("+00:00")


def test_a_failure_is_one_line_with_its_traceback() -> None:
    found = objects(lines_of_a_step("raise ValueError('two\\nlines')", PRODUCT1M_LOG="json"))
    assert found[-1]["level"] == "ERROR"
    assert found[-1]["message"] == "indexing failed: two\nlines"
    assert "Traceback (most recent call last)" in found[-1]["traceback"]


def test_by_default_logs_are_text_on_a_terminal_and_json_elsewhere() -> None:
    assert len(objects(lines_of_a_step())) == 2
    words = lines_of_a_step(terminal=True)
    assert words[0].startswith("[KFP Executor ")
    assert objects(words) == []


def test_a_requested_format_counts_on_every_stream() -> None:
    (nothing_logged, progress) = lines_of_a_step(PRODUCT1M_LOG="text")
    assert nothing_logged.startswith("[KFP Executor ")
    assert "vectors: 3/3, " in progress
    assert len(objects(lines_of_a_step(terminal=True, PRODUCT1M_LOG="json"))) == 2


def test_an_unknown_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRODUCT1M_LOG", "xml")
    with pytest.raises(ConfigError, match="PRODUCT1M_LOG: expected text or json, got 'xml'"):
        wants_json()
