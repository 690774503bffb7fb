"""Clocks of one module; everything else keeps the real ones."""

import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest


def replace_clock(
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    *,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Give a module that says `import time` another clock until the test ends.

    Patching `time` itself would reach the threads of servers and libraries.
    """
    monkeypatch.setattr(f"{module}.time", SimpleNamespace(monotonic=monotonic, sleep=sleep))
