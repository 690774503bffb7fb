"""What a local run shows of its steps."""

import io
import logging
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.local.console import Transcript

NAMES = {"a": "ingestion", "b": "rpn_training", "c": "indexing", "d": "evaluation"}
EXPECTED_S = {"ingestion": 60.0, "rpn_training": 300.0, "indexing": 30.0, "evaluation": 120.0}


def lines_of(
    expected_s: dict[str, float], monkeypatch: pytest.MonkeyPatch, events: list[tuple[float, str]]
) -> list[str]:
    """What is shown when kfp.local logs these messages at these seconds."""
    shown, now = io.StringIO(), [0.0]
    monkeypatch.setattr("pipelines.local.console.time.monotonic", lambda: now[0])
    lines = Transcript(Console(file=shown), io.StringIO(), NAMES, Path("x"), str, expected_s)
    for now[0], message in events:
        lines.filter(logging.LogRecord("kfp", logging.INFO, "", 0, message, (), None))
    return [line.partition(" ")[2] for line in shown.getvalue().splitlines()]


def test_a_step_says_how_long_the_rest_takes_at_the_pace_so_far(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = lines_of(
        EXPECTED_S,
        monkeypatch,
        [
            (0, "Executing task 'a'"),
            (120, "Task 'a' finished with status SUCCESS"),  # twice as slow as expected
            (120, "Executing task 'b'"),
            (420, "Task 'b' finished with status SUCCESS"),  # 420 s for 360 expected
            (420, "Task c cache hit"),
            (420, "Executing task 'd'"),
        ],
    )
    assert shown[0] == "ingestion starts, step 1 of 4, about 8 min left"  # 510 s, as expected
    assert shown[2] == "rpn_training starts, step 2 of 4, about 15 min left"  # 2 x 450 s
    assert shown[-1] == "evaluation starts, step 4 of 4, about 2 min left"  # 7/6 x 120 s


def test_without_rates_no_time_is_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lines_of({}, monkeypatch, [(0, "Executing task 'a'")]) == [
        "ingestion starts, step 1 of 4"
    ]
