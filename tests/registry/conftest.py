"""Fixtures of the registry's tests."""

from collections.abc import Iterator

import pytest

from product1m.registry import champion_files
from tests.support.worlds.registered_model import ask_here


@pytest.fixture(scope="module")
def asked_here() -> Iterator[None]:
    """Models answer in this process: a process of their own takes seconds to import everything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(champion_files, "ask_apart", ask_here)
        yield
