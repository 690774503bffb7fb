"""`run.json`: the request and the end of a local run; and the run's log by task."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from pipelines.local.console import CACHED, FINISHED, STARTED
from pipelines.local.kfp_local import LOG, StepError
from pipelines.local.processes import is_alive
from product1m.artifacts.atomic import write_text
from product1m.errors import PipelineError, redacted

RECORD = "run.json"
SUMMARY = "summary.json"
"""File in the same folder after a successful run; see `summary.py`."""

State = Literal["RUNNING", "SUCCEEDED", "FAILED", "INTERRUPTED", "KILLED"]


class RunRecord(BaseModel):
    """`run.json`, written when a run starts and again when it ends."""

    state: State = "RUNNING"
    """`KILLED` is never written; readers use it for a `RUNNING` record without a process."""
    pid: int
    request: dict[str, Any]
    """Fields of `pipelines.local.run.LocalRun`."""
    tasks: dict[str, str]
    """Task of the graph to its shown name, in topological order."""
    mlflow: dict[str, str]
    code: dict[str, str] = {}
    """Step to the digest of its code, by which its results are cached."""
    started: datetime
    ended: datetime | None = None
    failed_step: str = ""
    error: str = ""

    def write(self, folder: Path) -> None:
        """Write `run.json`, whole or not at all."""
        write_text(folder / RECORD, redacted(self.model_dump_json(indent=2)))


class TaskLog(BaseModel):
    """A task's part of `run.log`."""

    state: Literal["RUNNING", "SUCCEEDED", "FAILED", "CACHED"]
    lines: list[str] = []


@contextmanager
def recorded(
    folder: Path,
    request: Mapping[str, Any],
    tasks: Mapping[str, str],
    mlflow: Mapping[str, str],
    code: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """Write to `folder` that a run starts, and at the end of the block how it ended."""
    started = datetime.now(UTC)
    record = RunRecord(
        pid=os.getpid(),
        request=dict(request),
        tasks=dict(tasks),
        mlflow=dict(mlflow),
        code=dict(code or {}),
        started=started,
    )
    record.write(folder)
    try:
        yield
    except KeyboardInterrupt:
        record.state = "INTERRUPTED"
        raise
    except BaseException as error:
        record.state, record.error = "FAILED", str(error)
        if isinstance(error, StepError):
            record.failed_step, record.error = error.step, error.reason
        raise
    else:
        record.state = "SUCCEEDED"
    finally:
        record.ended = datetime.now(UTC)
        record.write(folder)


def read_record(folder: Path) -> RunRecord:
    """Read the record of the folder's last run; PipelineError if there is none."""
    path = folder / RECORD
    try:
        record = RunRecord.model_validate(json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        raise PipelineError(
            f"{path}: no such file; expected the --output folder of `python -m pipelines run`"
        ) from None
    except (ValueError, ValidationError) as error:
        raise PipelineError(f"{path}: not a valid run record: {error}") from error
    if record.state == "RUNNING" and not is_alive(record.pid, record.started.timestamp()):
        record.state = "KILLED"
    return record


def task_logs(folder: Path, tasks: Mapping[str, str]) -> dict[str, TaskLog]:
    """Split `run.log` by shown task name; tasks that did not start are missing."""
    path = folder / LOG
    logs: dict[str, TaskLog] = {}
    current: TaskLog | None = None
    for line in path.read_text("utf-8").splitlines() if path.is_file() else ():
        if match := STARTED.match(line):
            current = TaskLog(state="RUNNING")
            logs[tasks.get(match[1], match[1])] = current
        elif match := CACHED.match(line):
            logs[tasks.get(match[1], match[1])] = TaskLog(state="CACHED")
        elif match := FINISHED.match(line):
            succeeded = match[2] == "SUCCESS"
            logs[tasks.get(match[1], match[1])].state = "SUCCEEDED" if succeeded else "FAILED"
            current = None
        elif current is not None and not re.fullmatch(r"[-\s]*", line):
            current.lines.append(line)
    return logs
