"""What keeps the code readable: sizes of files and functions, rooms, and habits of the tests."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.paths import ROOT

LIBRARY, TESTS, STEPS = ROOT / "src/product1m", ROOT / "tests", ROOT / "src/product1m/steps"
FOLDERS = [ROOT / name for name in ("src", "components", "pipelines", "tests", "benchmarks")]
MAX_FILE, MAX_FUNCTION, MAX_STEP = 400, 40, 60
"""Lines; a step's is its `run`."""
ROOT_FILES = {"__init__.py", "__main__.py", "errors.py", "py.typed"}
WITHOUT_A_MIRROR = {"repository", "recordings", "support"}
"""Folders of tests of what surrounds the code, of recorded answers, and of helpers."""
CLOCKS = {"monotonic", "perf_counter", "process_time", "time"}
