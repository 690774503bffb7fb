"""What is known of a run, the same for a local run and for a cluster's."""

import contextlib
import json
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from pipelines.local.figures import Figures
from pipelines.local.kfp_local import LOG
from pipelines.local.record import SUMMARY, read_record, task_logs

TAIL_LINES = 20


@dataclass(frozen=True)
class TaskState:
    """A task of the graph."""

    key: str
    """Name in the graph and of the cluster's nodes: `feature-extraction-2`."""
    name: str
    """Name that is shown: `feature_extraction/scenes`."""
    state: str
    """KFP's states, `SKIPPED` below a condition that does not hold; and `CACHED`, `STOPPED`,
    `NOT RUN`."""
    started: datetime | None = None
    ended: datetime | None = None

    @property
    def seconds(self) -> float:
        """How long it took; 0 where that is not known."""
        if self.started is None or self.ended is None:
            return 0.0
        return max((self.ended - self.started).total_seconds(), 0.0)


@dataclass
class Story:
    """What is known of a run."""

    title: str
    state: str
    tasks: list[TaskState]
    started: datetime | None = None
    ended: datetime | None = None
    failed: str = ""
    """Name of the task in which the run stopped."""
    why: list[str] = field(default_factory=list)
    """Reasons, the most important first; a reason can have several lines."""
    notes: list[str] = field(default_factory=list)
    """What else a reader should know: what came from the cache, earlier attempts."""
    results: dict[str, str] = field(default_factory=dict)
    """After a successful run: gate, model version, or why they are unknown."""
    figures: Figures | None = None
    """Figures of a successful run, if they are known."""
    tail: list[str] = field(default_factory=list)
    """The last lines that the task printed."""
    whole_log: str = ""
    advice: str = ""
    links: dict[str, str] = field(default_factory=dict)


def local_story(folder: Path) -> Story:
    """The story of a run of `python -m pipelines run`; PipelineError if the folder has none."""
    folder = folder.resolve()
    record = read_record(folder)
    logs = task_logs(folder, record.tasks)
    states = [
        TaskState(key, name, logs[name].state if name in logs else "PENDING")
        for key, name in record.tasks.items()
    ]
    story = Story(str(folder), record.state, states, record.started, record.ended)
    story.links = {"MLflow": f"run {record.mlflow['run_id']} at {record.mlflow['tracking_uri']}"}
    if record.state == "SUCCEEDED":
        story.links["summary"] = str(folder / SUMMARY)
        _add_model(story, folder / SUMMARY)
        return story
    stopped = [state.name for state in states if state.state in ("FAILED", "RUNNING")]
    story.failed = record.failed_step or (stopped[-1] if stopped else "")
    story.why = [record.error] if record.error else []
    story.whole_log = str(folder / LOG)
    if story.failed in logs:
        story.tail = logs[story.failed].lines[-TAIL_LINES:]
    if record.state != "RUNNING":
        story.advice = (
            f"`python -m pipelines runs resume {folder}` continues: finished steps come from the "
            "cache, training from its last checkpoint"
        )
    return story


def _timed(task: TaskState, started: datetime | None, seconds: float) -> TaskState:
    """The task with its duration; when it started within the run is not known."""
    ended = started + timedelta(seconds=seconds) if started else None
    return replace(task, started=started, ended=ended)


def _add_model(story: Story, summary: Path) -> None:
    """The registered version and where a reviewer starts, if the summary can be read."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        content = json.loads(summary.read_text("utf-8"))
        name, version = content["model"]["name"], content["model"]["version"]
        if gate := content["model"].get("gate"):
            story.results["gate"] = gate
        story.results["model"] = f"{name} version {version}"
        story.links["report"] = content["report"]
        took = {name: step["wall_seconds"] for name, step in content["steps"].items()}
        story.tasks = [_timed(task, story.started, took[task.name]) for task in story.tasks]
        uri = content["mlflow"]["tracking_uri"]
        story.advice = f"`MLFLOW_TRACKING_URI={uri} product1m registry show {version}`"
