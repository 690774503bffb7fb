"""Logs for machines: one JSON object a line, from a process of its own as a step has it."""

import json
import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from product1m.errors import ConfigError
from product1m.logs import wants_json

STEP = """
    import logging
    logging.basicConfig(format="[KFP Executor %(asctime)s %(levelname)s]: %(message)s",
                        level=logging.INFO)
    from product1m.config import IndexingConfig
    from product1m.progress import track
    from product1m.tracking import step_run
    with step_run("indexing", IndexingConfig(), "gallery"):
        list(track(range(3), "vectors"))
        BODY
"""


def lines_of_a_step(body: str = "", **environment: str) -> list[str]:
    inherited = {key: value for key, value in os.environ.items() if "MLFLOW" not in key}
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(STEP).replace("BODY", body or "pass")],
        env=inherited | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return ended.stderr.splitlines()


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


def test_without_a_wish_logs_are_words() -> None:
    (nothing_logged, progress) = lines_of_a_step()
    assert nothing_logged.startswith("[KFP Executor ")
    assert "vectors: 3/3, " in progress


def test_an_unknown_wish_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRODUCT1M_LOG", "xml")
    with pytest.raises(ConfigError, match="PRODUCT1M_LOG: expected text or json, got 'xml'"):
        wants_json()
