"""What a run will cost: an earlier run's rates times the work, computed here by hand."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.__main__ import app
from pipelines.graph.training import training_pipeline
from pipelines.local.kfp_local import dependencies
from pipelines.local.price import Sizes, price, read_rates, runs_again
from pipelines.local.record import RECORD, SUMMARY, RunRecord
from pipelines.local.story import local_story
from pipelines.local.summary import (
    PRODUCED_BY,
    ArtifactSummary,
    ModelSummary,
    RunSummary,
    StepSummary,
)
from product1m.artifacts.folder import write_artifact
from product1m.config import load_config
from product1m.errors import PipelineError
from tests.support.worlds.small_datasets import small_dataset

CONFIG = load_config("sample")
TASKS = (
    "data_state", "ingestion", "background_synthesis", "rpn_training", "feature_extraction/train",
    "feature_extraction/scenes", "feature_extraction/gallery", "feature_extraction/queries",
    "capture_pretraining", "indexing", "evaluation", "registration",
)  # fmt: skip
STATE = {"dataset_digest": "monday", "backgrounds_digest": "none"}


def measured_run(folder: Path) -> Path:
    """The output folder of a run over 3 items a list: each task took 60 s and 6 s to start."""
    artifacts = {}
    for name, (step, part) in PRODUCED_BY.items():
        artifacts[name] = ArtifactSummary(path=folder / name, digest="1", num_bytes=1_000_000)
        if step == "ingestion":
            with write_artifact(folder / name, step, CONFIG.ingestion, part=part) as writer:
                writer.metrics["items"] = 3.0
    cost = StepSummary(seconds=60.0, peak_memory_mib=1.0, cached=False, wall_seconds=66.0)
    summary = RunSummary(
        preset="sample",
        dataset=STATE,
        metrics={},
        differences={},
        fusion={},
        rpn={},
        steps=dict.fromkeys(TASKS, cost),
        seconds=1.0,
        peak_memory_mib=1.0,
        artifacts=artifacts,
        model=ModelSummary(name="m", version="1"),
        report=folder,
        mlflow={"tracking_uri": "sqlite:///x.db"},
    )
    summary.write(folder / SUMMARY)
    RunRecord(
        state="SUCCEEDED",
        pid=1,
        request={"config": CONFIG.model_dump(mode="json")},
        tasks={},
        mlflow={"tracking_uri": "sqlite:///x.db", "run_id": "1"},
        code=dict.fromkeys((task.partition("/")[0] for task in TASKS), "code"),
        started=datetime(2026, 11, 27, tzinfo=UTC),
    ).write(folder)
    assert (folder / RECORD).exists()
    return folder


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return measured_run(tmp_path_factory.mktemp("earlier"))


def test_twice_the_work_takes_twice_the_time_and_the_same_start(earlier: Path) -> None:
    num_epochs = 2 * CONFIG.capture_pretraining.num_epochs
    config = load_config("sample", [f"capture_pretraining.num_epochs={num_epochs}"])
    rates = read_rates(earlier)
    found = {task.task: task for task in price(config, Sizes(3, 9, 3), rates, TASKS).tasks}
    assert found["capture_pretraining"].seconds == 6 + 120
    assert found["indexing"].seconds == 6 + 180
    assert found["registration"].seconds == 66
    assert found["indexing"].num_bytes == 3_000_000
    assert found["capture_pretraining"].num_bytes == 1_000_000, "a model's size is its own"
    assert found["ingestion"].seconds == 6 + 100, "15 items instead of 9"


def test_gpu_hours_are_those_of_the_profile(earlier: Path) -> None:
    rates = read_rates(earlier)
    at_gpu = price(CONFIG, Sizes(3, 3, 3), rates, TASKS, "gpu-8")
    # Two training tasks on 8 GPUs, four of features, indexing and evaluation on one.
    assert at_gpu.gpu_hours == pytest.approx((2 * 8 + 6) * 66 / 3600)
    assert at_gpu.minutes == pytest.approx(12 * 66 / 60)
    assert price(CONFIG, Sizes(3, 3, 3), rates, TASKS).gpu_hours == 0
    with pytest.raises(PipelineError, match=r"13\.2 minutes, more than --max-minutes 10;"):
        at_gpu.check(10.0, None)
    with pytest.raises(PipelineError, match=r"0\.4 GPU hours, more than --max-gpu-hours 0\.1;"):
        at_gpu.check(None, 0.1)
    at_gpu.check(14.0, 1.0)


def test_what_changed_and_what_depends_on_it_runs_again(earlier: Path) -> None:
    rates, after = read_rates(earlier), dependencies(training_pipeline(CONFIG))
    code = dict.fromkeys((task.partition("/")[0] for task in TASKS), "code")
    assert next(iter(after)) == "data_state"
    assert runs_again(CONFIG, STATE, code, rates, after) == {"data_state"}
    indexing = load_config("sample", ["indexing.probes=7"])
    behind = {"data_state", "indexing", "evaluation", "registration"}
    assert runs_again(indexing, STATE, code, rates, after) == behind
    assert runs_again(CONFIG, STATE, code | {"indexing": "other"}, rates, after) == behind
    changed = {**STATE, "dataset_digest": "tuesday"}
    assert runs_again(CONFIG, changed, code, rates, after) == set(TASKS)
    rooms = {**STATE, "backgrounds_digest": "rooms"}
    assert runs_again(CONFIG, rooms, code, rates, after) == set(TASKS) - {"ingestion"}


def test_a_run_that_succeeded_names_its_version_and_what_to_do_next(earlier: Path) -> None:
    story = local_story(earlier)
    assert story.results == {"model": "m version 1"}
    assert story.advice == "`MLFLOW_TRACKING_URI=sqlite:///x.db product1m registry show 1`"


def test_the_command_shows_the_price_and_keeps_its_limits(earlier: Path, tmp_path: Path) -> None:
    data = small_dataset(tmp_path / "data")
    arguments = ["plan", "--dataset", str(data), "--rates", str(earlier)]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    assert "13.2" in shown.output
    assert "next         `python -m pipelines run --preset sample" in shown.output
    refused = CliRunner().invoke(app, [*arguments, "--max-minutes", "10"])
    assert refused.exit_code == 1
    assert "nothing was started" in refused.output
    missing = CliRunner().invoke(app, ["plan", "--dataset", str(data), "--rates", str(tmp_path)])
    assert "run.json: no such file" in missing.output
