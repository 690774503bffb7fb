"""`mlflow server` with its only worker in the same process, which imports everything once.

MLflow starts uvicorn in a second process, which takes half the time of a start. The command line,
the database and the application stay MLflow's own.

    python mlflow_in_one_process.py server --workers 1 …
"""

import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import mlflow.cli
import mlflow.server


def run_here(command: Sequence[str], extra_env: Mapping[str, str], **_: Any) -> NoReturn:
    """Run `python -m module arguments` in this process, without workers of its own."""
    python, flag, module, *arguments = command
    assert (python, flag, module) == (sys.executable, "-m", "uvicorn")
    workers = arguments.index("--workers")
    assert arguments[workers + 1] == "1"
    os.environ |= extra_env
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__")
    sys.exit(0)


if __name__ == "__main__":
    mlflow.server._exec_cmd = run_here
    mlflow.cli.cli(prog_name="mlflow")
