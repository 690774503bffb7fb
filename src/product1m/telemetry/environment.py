"""Environment variables: set for a block only, or without credentials."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_HARMLESS = (
    "PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE",
    "LANG", "LC_ALL", "LC_CTYPE", "TZ",
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES",
)  # fmt: skip
"""Variables that a program needs to run, and that hold no credentials."""


@contextmanager
def environment_set(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables within the block; processes started inside inherit them."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def bare_environment(home: Path) -> dict[str, str]:
    """The environment of a process that gets no credentials, with `home` as home and scratch."""
    kept = {name: os.environ[name] for name in _HARMLESS if name in os.environ}
    return kept | {"HOME": str(home), "TMPDIR": str(home)}
