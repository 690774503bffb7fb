"""What a run will cost before it starts: minutes, GPU hours and bytes, from an earlier run's rates.

A task's time is proportional to its work, which `workload` estimates from the lists and the
configuration. The start of its process is not. Both times were measured by the earlier run.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from pydantic import ValidationError

from pipelines.graph.data import existing
from pipelines.graph.resources import PROFILES, TRAINING_STEPS, Profile
from pipelines.local.record import SUMMARY, RunRecord, read_record
from pipelines.local.summary import PRODUCED_BY, RunSummary, StepSummary
from pipelines.local.workload import Sizes, sizes_of_lists, work
from product1m.artifacts.folder import open_artifact
from product1m.config import BackgroundSynthesisConfig, Config, parse_config
from product1m.data.photo_sources import local_lists
from product1m.errors import PipelineError, Product1MError


@dataclass(frozen=True)
class Rates:
    """What an earlier run measured, by task."""

    folder: Path
    record: RunRecord
    summary: RunSummary
    config: Config
    sizes: Sizes


@dataclass(frozen=True)
class TaskPrice:
    """What one task will cost; nothing if it comes from the cache."""

    task: str
    runs: bool
    seconds: float = 0.0
    gpu_hours: float = 0.0
    num_bytes: float = 0.0


@dataclass(frozen=True)
class Price:
    """What a run costs at most: a step that writes the same as before saves the steps after it."""

    tasks: tuple[TaskPrice, ...]
    rates: Path

    @property
    def minutes(self) -> float:
        """Sum over the tasks, which run one after the other here."""
        return sum(task.seconds for task in self.tasks) / 60

    @property
    def gpu_hours(self) -> float:
        """GPUs times hours."""
        return sum(task.gpu_hours for task in self.tasks)

    @property
    def num_bytes(self) -> float:
        """What the artifacts take."""
        return sum(task.num_bytes for task in self.tasks)

    def check(self, max_minutes: float | None, max_gpu_hours: float | None) -> None:
        """PipelineError if the run would cost more than it may."""
        limits = {
            "--max-minutes": (self.minutes, max_minutes, "minutes"),
            "--max-gpu-hours": (self.gpu_hours, max_gpu_hours, "GPU hours"),
        }
        for option, (expected, limit, unit) in limits.items():
            if limit is not None and expected > limit:
                raise PipelineError(
                    f"the run would take about {expected:.1f} {unit}, more than {option} "
                    f"{limit:g}; nothing was started. Raise the limit, or take a smaller preset or "
                    "fewer epochs"
                )


def sizes_of(dataset: str, config: BackgroundSynthesisConfig) -> Sizes:
    """Counts of a data set's lists; no photo is read."""
    data = existing(dataset, "--dataset")
    with local_lists(data.uri) as folder:
        return sizes_of_lists(folder, data.uri, config)


def read_rates(folder: Path) -> Rates:
    """What the run in an output folder measured; PipelineError if it did not succeed."""
    record = read_record(folder)
    try:
        summary = RunSummary.model_validate_json((folder / SUMMARY).read_text("utf-8"))
        config = parse_config(record.request["config"])
        sizes = _measured_sizes(summary)
    except (OSError, ValidationError, Product1MError) as error:
        raise PipelineError(
            f"{folder}: no run that succeeded, so nothing was measured ({error}); name the output "
            "folder of one with --rates"
        ) from error
    return Rates(folder, record, summary, config, sizes)


def newest_rates(root: Path, preset: str) -> Rates | None:
    """The rates of the newest run of a preset in a folder below `root`; None if there is none."""
    paths = sorted(root.glob(f"*/{SUMMARY}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in paths:
        try:
            rates = read_rates(path.parent)
        except PipelineError:
            continue
        if rates.summary.preset == preset:
            return rates
    return None


def expected_seconds(config: Config, preset: str, dataset: str, output: Path) -> dict[str, float]:
    """Task to the seconds that it should take here; empty where no earlier run was measured.

    The rates are those of the last run in `output`, or of the newest one beside it.
    """
    try:
        rates = read_rates(output) if (output / SUMMARY).is_file() else None
        rates = rates or newest_rates(output.parent, preset)
        if rates is None:
            return {}
        expected = price(
            config,
            sizes_of(dataset, config.background_synthesis),
            rates,
            set(rates.summary.steps),
        )
    except Product1MError:
        return {}
    return {task.task: task.seconds for task in expected.tasks}


def price(
    config: Config,
    sizes: Sizes,
    rates: Rates,
    runs: Collection[str],
    profile: Profile | None = None,
) -> Price:
    """What a run will cost.

    Args:
        config: of the run.
        sizes: of its data set.
        rates: of an earlier run.
        runs: tasks that are not taken from the cache.
        profile: of the cluster's pods, which decides about GPUs; None for a run here.
    """
    wanted, measured = work(config, sizes), work(rates.config, rates.sizes)
    stored, usual_start_s = _bytes_by_task(rates.summary), _usual_start_s(rates.summary)
    rows = []
    for task, step in rates.summary.steps.items():
        if task not in runs:
            rows.append(TaskPrice(task, runs=False))
            continue
        ratio = wanted.get(task, 1.0) / measured.get(task, 1.0)
        start_s = usual_start_s if step.cached else _start_s(step)
        seconds = start_s + ratio * step.seconds
        gpus = _gpus(task, config, profile, used=step.peak_gpu_memory_mib > 0)
        grows = 1.0 if task in ("rpn_training", "capture_pretraining") else ratio
        num_bytes = grows * stored.get(task, 0)
        rows.append(TaskPrice(task, True, seconds, gpus * seconds / 3600, num_bytes))
    return Price(tuple(rows), rates.folder)


def _start_s(step: StepSummary) -> float:
    return max(step.wall_seconds - step.seconds, 0.0)


def _usual_start_s(summary: RunSummary) -> float:
    """Median of the tasks that were not taken from the cache, where no process starts."""
    return median([_start_s(step) for step in summary.steps.values() if not step.cached] or [0.0])


def _measured_sizes(summary: RunSummary) -> Sizes:
    parts = ("train", "gallery", "queries")
    train, gallery, queries = (
        int(
            open_artifact(summary.artifacts[part].path, "ingestion", part).manifest.metrics["items"]
        )
        for part in parts
    )
    scenes = open_artifact(summary.artifacts["scenes"].path, "background_synthesis", "scenes")
    return Sizes(train, gallery, queries, int(scenes.manifest.metrics["cutouts/tried"]))


def _bytes_by_task(summary: RunSummary) -> dict[str, int]:
    total: dict[str, int] = {}
    for name, artifact in summary.artifacts.items():
        step, part = PRODUCED_BY[name]
        task = f"{step}/{part}" if step == "feature_extraction" else step
        total[task] = total.get(task, 0) + artifact.num_bytes
    return total


def _gpus(task: str, config: Config, profile: Profile | None, *, used: bool) -> float:
    step = task.partition("/")[0]
    if profile is None:
        return float(used)
    nodes = config.training_job.num_nodes if step in TRAINING_STEPS else 1
    return float(PROFILES[profile][step].gpus * nodes)


def runs_again(
    config: Config,
    state: Mapping[str, str],
    code: Mapping[str, str],
    rates: Rates,
    after: Mapping[str, Collection[str]],
) -> set[str]:
    """Tasks that a run in the earlier run's folder would not take from its cache, at most.

    Args:
        config: of the run.
        state: of its data.
        code: digests of the steps' code now.
        rates: of the earlier run.
        after: task to those that it depends on, in the order of the graph.
    """
    now, then = config.model_dump(mode="json"), rates.config.model_dump(mode="json")
    shared = any(now[name] != then[name] for name in ("storage", "training_job"))
    digests = {"ingestion": "dataset_digest", "background_synthesis": "backgrounds_digest"}
    again: set[str] = set()
    for task, before in after.items():
        step = task.partition("/")[0]
        key = digests.get(step)
        is_changed = (
            step == "data_state"
            or shared
            or now[step] != then[step]
            or code[step] != rates.record.code.get(step)
            or (key is not None and state[key] != rates.summary.dataset.get(key))
        )
        if is_changed or (again - {"data_state"}) & set(before):
            again.add(task)
    return again
