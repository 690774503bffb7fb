"""What a run will cost: an earlier run's rates times the work, computed here by hand."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.__main__ import app
from pipelines.graph.training import training_pipeline
from pipelines.local.kfp_local import dependencies
from pipelines.local.price import price, read_rates, runs_again
from pipelines.local.record import RECORD, SUMMARY, RunRecord
from pipelines.local.story import local_story
from pipelines.local.summary import (
    PRODUCED_BY,
    ArtifactSummary,
    ModelSummary,
    RunSummary,
    StepSummary,
)
from pipelines.local.workload import Sizes, work
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
FEW, MANY = Sizes(3, 3, 3, 3), Sizes(30_000, 30_000, 30_000, 600)


def measured_run(folder: Path, sizes: Sizes = FEW) -> Path:
    """The output folder of a run: each task took 60 s and 6 s to start."""
    artifacts = {}
    for name, (step, part) in PRODUCED_BY.items():
        artifacts[name] = ArtifactSummary(path=folder / name, digest="1", num_bytes=1_000_000)
        if step == "ingestion":
            with write_artifact(folder / name, step, CONFIG.ingestion, part=part) as writer:
                writer.metrics["items"] = float(getattr(sizes, part))
        if step == "background_synthesis":
            section = CONFIG.background_synthesis
            with write_artifact(folder / name, step, section, part=part) as writer:
                writer.metrics["cutouts/tried"] = float(sizes.singles)
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


@pytest.fixture(scope="module")
def earlier_of_many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return measured_run(tmp_path_factory.mktemp("many"), MANY)


def test_twice_the_work_takes_twice_the_time_and_the_same_start(earlier_of_many: Path) -> None:
    num_epochs = 2 * CONFIG.capture_pretraining.num_epochs
    config = load_config("sample", [f"capture_pretraining.num_epochs={num_epochs}"])
    rates = read_rates(earlier_of_many)
    sizes = MANY._replace(gallery=90_000)
    found = {task.task: task for task in price(config, sizes, rates, TASKS).tasks}
    assert found["capture_pretraining"].seconds == pytest.approx(6 + 120, rel=0.001)
    assert found["indexing"].seconds == pytest.approx(6 + 180, rel=0.003)
    assert found["registration"].seconds == 66
    assert found["background_synthesis"].seconds == 66
    assert found["indexing"].num_bytes == pytest.approx(3_000_000, rel=0.004)
    assert found["capture_pretraining"].num_bytes == 1_000_000, "a model's size is its own"
    assert found["ingestion"].seconds == pytest.approx(6 + 100, rel=0.01), "5 lists instead of 3"


def test_a_cached_task_starts_like_the_others_when_it_runs_again(earlier: Path) -> None:
    rates = read_rates(earlier)
    cached = rates.summary.steps["indexing"].model_copy(update={"cached": True, "wall_seconds": 0})
    rates.summary.steps["indexing"] = cached
    found = {task.task: task.seconds for task in price(CONFIG, FEW, rates, TASKS).tasks}
    assert found["indexing"] == 66


def test_work_follows_what_a_step_really_does() -> None:
    def ratio(task: str, *settings: str, preset: str = "sample", sizes: Sizes = MANY) -> float:
        config = load_config(preset, settings)  # type: ignore[arg-type]
        return work(config, sizes)[task] / work(CONFIG, MANY)[task]

    fewer = "background_synthesis.num_scenes=72"
    assert ratio("feature_extraction/scenes", fewer) == pytest.approx(0.1, abs=0.03)
    assert ratio("capture_pretraining", fewer) == 1, "its batches are counted by items"
    assert ratio("background_synthesis", fewer) > 0.8, "most of it cuts products out"
    assert ratio("background_synthesis", "background_synthesis.max_cutouts=60") < 0.3
    assert ratio("rpn_training", "rpn_training.num_epochs=8") < 1.5, "maps are made once"
    few = MANY._replace(train=100, singles=10)
    scenes = ratio("feature_extraction/scenes", preset="small", sizes=few)
    assert scenes == pytest.approx(40 / 720, abs=0.03)
    assert work(load_config("small"), few)["capture_pretraining"] == pytest.approx(
        work(CONFIG, few)["capture_pretraining"] * 200 / 40, rel=0.15
    ), "200 steps at least, instead of 20 passes in two batches each"
    warm = "capture_pretraining.warm_start=models:/product1m@champion"
    assert ratio("capture_pretraining", warm) == pytest.approx(0.15, abs=0.01)
    assert ratio("feature_extraction/queries", "feature_extraction.ocr=boxes") > 5


SAMPLE_S = (0, 2.0, 127.0, 167.7, 77.2, 58.4, 48.5, 41.9, 160.4, 2.4, 100.2, 6.7)
"""Processor time of the tasks of `make sample`, November 2026: 960, 448 and 370 items."""
TINY_S = (0, 0.4, 10.0, 11.2, 12.8, 4.6, 8.8, 10.1, 4.5, 0.3, 13.2, 3.9)
"""The same with 137, 64 and 71 items, 60 cut-outs, 40 scenes, and 1 and 2 passes."""
FEWER = (
    "background_synthesis.num_scenes=40",
    "background_synthesis.max_cutouts=60",
    "rpn_training.num_epochs=1",
    "capture_pretraining.num_epochs=2",
)


def test_the_times_of_a_much_smaller_run_are_foreseen_within_a_quarter() -> None:
    """Both runs were measured; 12 times less work altogether."""
    small = work(load_config("sample", FEWER), Sizes(137, 64, 71, 60))
    large = work(CONFIG, Sizes(960, 448, 370, 600))
    expected = [
        seconds * small.get(task, 1) / large.get(task, 1)
        for task, seconds in zip(TASKS, SAMPLE_S, strict=True)
    ]
    assert sum(expected) == pytest.approx(sum(TINY_S), rel=0.25)
    for task, seconds, actual in zip(TASKS, expected, TINY_S, strict=True):
        if task != "evaluation":  # a detector that saw 36 scenes finds fewer boxes to answer
            assert seconds == pytest.approx(actual, rel=0.25, abs=3.0), task


def test_gpu_hours_are_those_of_the_profile(earlier: Path) -> None:
    rates = read_rates(earlier)
    at_gpu = price(CONFIG, FEW, rates, TASKS, "gpu-8")
    # Two training tasks on 8 GPUs, four of features, indexing and evaluation on one.
    assert at_gpu.gpu_hours == pytest.approx((2 * 8 + 6) * 66 / 3600)
    assert at_gpu.minutes == pytest.approx(12 * 66 / 60)
    assert price(CONFIG, FEW, rates, TASKS).gpu_hours == 0
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
    settings = ["--set", "indexing.probes=7"]
    shown = CliRunner().invoke(app, [*arguments, *settings])
    assert shown.exit_code == 0, shown.output
    assert "13.2" in shown.output
    assert "next         `python -m pipelines run --preset sample" in shown.output
    assert " --output build/mine --set indexing.probes=7`" in shown.output
    refused = CliRunner().invoke(app, [*arguments, "--max-minutes", "10"])
    assert refused.exit_code == 1
    assert "nothing was started" in refused.output
    missing = CliRunner().invoke(app, ["plan", "--dataset", str(data), "--rates", str(tmp_path)])
    assert "run.json: no such file" in missing.output
