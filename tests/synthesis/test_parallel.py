"""Work in several processes."""

import os

import pytest

from product1m.errors import DatasetError
from product1m.synthesis.parallel import WorkerProcesses


def test_a_killed_process_is_an_error_that_says_what_to_do() -> None:
    with (
        WorkerProcesses(2) as workers,
        pytest.raises(DatasetError, match=r"was killed.*num_workers"),
    ):
        list(workers.map(os._exit, [1]))
