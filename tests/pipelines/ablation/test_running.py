"""An ablation from end to end on a tiny world: the real steps, MLflow, tables, and continuing."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow import MlflowClient

from pipelines.ablation.grids import FULL, Cell, Grid, make_grid
from pipelines.ablation.results import AblationResults
from pipelines.ablation.running import Ablation, run_ablation
from pipelines.local.mlflow_run import TrackedRun
from product1m.artifacts.folder import Artifact, open_artifact
from product1m.config import Config, parse_config
from product1m.errors import TrainingError
from product1m.registry.roles import EXPERIMENT
from product1m.steps import capture_pretraining, evaluation, indexing
from tests.support.worlds import tiny_world
from tests.support.worlds.small_datasets import small_dataset
from tests.support.worlds.tiny_world import TinyArtifacts

BASE = parse_config(
    {
        "capture_pretraining": {**tiny_world.CAPTURE.model_dump(), "num_epochs": 1},
        "indexing": tiny_world.INDEXING.model_dump(),
        "evaluation": tiny_world.QUICK.model_dump(),
    }
)

PART = Cell(
    "without-both",
    "neither the scenes' task nor titles in the ranking",
    {
        "capture_pretraining.scene_contrast_weight": 0.0,
        "evaluation.fused_blocks": ["joint", "streams", "image"],
    },
)
GRID = Grid("pretext", "What are they worth?", (Cell(FULL, "all"), PART), {}, ("shipped", "joint"))


class Steps:
    """Runs the steps from pretraining on in this process, as a graph would run them."""

    def __init__(self, world: TinyArtifacts, patch: pytest.MonkeyPatch) -> None:
        self.world, self.patch = world, patch
        self.configs: list[Config] = []
        self.fail_at = -1

    def __call__(
        self, config: Config, arguments: Mapping[str, str], output: Path, tracked: TrackedRun
    ) -> Artifact:
        self.configs.append(config)
        if len(self.configs) == self.fail_at:
            raise TrainingError("the power went off")
        for name, value in tracked.environment.items():
            self.patch.setenv(name, value)
        world = self.world
        folder = output / "pipeline" / str(len(self.configs))
        capture, index, results = folder / "capture", folder / "index", folder / "evaluation"
        capture_pretraining.run(
            world.train_features, world.scenes_features, capture, config.capture_pretraining
        )
        indexing.run(world.gallery_features, capture, index, config.indexing)
        evaluation.run(
            world.queries_features,
            capture,
            index,
            world.queries,
            world.gallery,
            results,
            config.evaluation,
        )
        self.patch.delenv("MLFLOW_RUN_ID")
        self.patch.delenv("MLFLOW_TRACKING_URI")
        return open_artifact(results, "evaluation")


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as context:
        for name in ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID"):
            context.delenv(name, raising=False)
        context.setattr("pipelines.ablation.running.source_digest", lambda steps: "code")
        yield context


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory, patch: pytest.MonkeyPatch) -> Steps:
    return Steps(tiny_world.write_world(tmp_path_factory.mktemp("world")), patch)


@pytest.fixture(scope="module")
def ablation(tmp_path_factory: pytest.TempPathFactory) -> Ablation:
    root = tmp_path_factory.mktemp("ablation")
    data = small_dataset(root / "data")
    return Ablation(GRID, BASE, "sample", str(data), root / "out", (0, 1))


@pytest.fixture(scope="module")
def done(ablation: Ablation, steps: Steps) -> AblationResults:
    """Two cells, two seeds; it failed once in the third turn and was started again."""
    steps.fail_at = 3
    with pytest.raises(TrainingError, match="the power went off"):
        run_ablation(ablation, steps)
    return run_ablation(ablation, steps)


def folder(ablation: Ablation) -> Path:
    return ablation.output / "ablations" / ablation.grid.name


def evaluated(ablation: Ablation, cell: str, seed: int) -> Path:
    """The metrics of the evaluation that was made for a cell and seed."""
    written = (ablation.output / "ablations" / "results").glob("*/result.json")
    results = [json.loads(path.read_text("utf-8")) for path in written]
    (found,) = [r for r in results if (r["cell"], r["seed"]) == (cell, seed)]
    return Path(found["evaluation"]) / "metrics.json"


def runs(ablation: Ablation) -> list[Any]:
    client = MlflowClient(f"sqlite:///{ablation.output / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment
    return list(client.search_runs([experiment.experiment_id], order_by=["start_time ASC"]))


def test_a_figure_of_the_table_is_the_mean_of_its_evaluations(
    done: AblationResults, ablation: Ablation
) -> None:
    for row in done.rows_for("joint"):
        reported = []
        for seed in (0, 1):
            metrics = json.loads(evaluated(ablation, row.cell, seed).read_text("utf-8"))
            reported.append(metrics["test"]["joint"]["strict"]["10"]["mAP"])
        assert row.score.mean == pytest.approx(sum(reported) / 2)
        assert list(row.by_seed.values()) == pytest.approx(reported)
    full, without = done.rows_for("joint")
    assert without.difference.mean == pytest.approx(without.score.mean - full.score.mean)
    assert without.difference.mean != 0


def test_every_turn_ran_once_with_its_task_and_its_seed(
    done: AblationResults, steps: Steps
) -> None:
    turns = [
        (c.capture_pretraining.scene_contrast_weight, c.capture_pretraining.seed)
        for c in steps.configs[:5]
    ]
    assert turns == [(1, 0), (0, 0), (1, 1), (1, 1), (0, 1)], "the failed third turn again"
    assert done.seeds == [0, 1]


def test_tables_and_plot_are_in_the_output_folder(
    done: AblationResults, ablation: Ablation
) -> None:
    table = pd.read_csv(folder(ablation) / "results.csv")
    assert table["cell"].tolist() == ["full", PART.name] * 2
    assert (folder(ablation) / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert f"{done.rows[0].score.mean:.3f}" in (folder(ablation) / "table.md").read_text("utf-8")


def test_mlflow_shows_every_cell_below_one_run(done: AblationResults, ablation: Ablation) -> None:
    parents = [run for run in runs(ablation) if "mlflow.parentRunId" not in run.data.tags]
    assert [run.info.status for run in parents] == ["FAILED", "FINISHED"]
    children = [
        run
        for run in runs(ablation)
        if run.data.tags.get("mlflow.parentRunId") == parents[1].info.run_id
    ]
    assert len(children) == 4
    names = {run.info.run_name: run for run in children}
    run = names[f"{PART.name}, seed 1"]
    assert run.info.status == "FINISHED"
    assert float(run.data.params["capture_pretraining.scene_contrast_weight"]) == 0
    assert run.data.params["capture_pretraining.seed"] == "1"
    row = done.rows_for("joint")[1]
    assert run.data.metrics["strict/joint/mAP_at_10"] == pytest.approx(row.by_seed[1])
    assert run.data.metrics["capture_pretraining/num_steps"] > 0, "the steps log there too"
    assert "earlier_run" in names["full, seed 0"].data.tags
    logged = parents[1].data.metrics[f"difference/{PART.name}/mean"]
    assert logged == pytest.approx(done.rows_for("shipped")[1].difference.mean)


def test_the_same_ablation_again_runs_nothing_and_gives_the_same_results(
    done: AblationResults, ablation: Ablation, steps: Steps, capsys: pytest.CaptureFixture[str]
) -> None:
    before = len(steps.configs)
    assert run_ablation(ablation, steps) == done
    assert len(steps.configs) == before
    shown = capsys.readouterr().out
    assert shown.count("already evaluated") == 4
    assert f"[4/4] {PART.name} (" in shown


def test_a_cell_may_leave_a_block_out_of_the_fusion(
    done: AblationResults, ablation: Ablation
) -> None:
    metrics = json.loads(evaluated(ablation, PART.name, 0).read_text("utf-8"))
    assert metrics["fusion"].get("text", 0) == 0
    assert max(metrics["fusion"].values()) == 1


def test_one_evaluation_serves_every_grid_and_every_ranking(
    ablation: Ablation, steps: Steps, done: AblationResults
) -> None:
    before = len(steps.configs)
    grid = make_grid("fusion", BASE, ["image-only"])
    fusion = run_ablation(replace(ablation, grid=grid), steps)
    assert len(steps.configs) == before
    full, image = fusion.rows
    assert (image.cell, image.method) == ("image-only", "image")
    for seed in (0, 1):
        metrics = json.loads(evaluated(ablation, FULL, seed).read_text("utf-8"))["test"]
        assert image.by_seed[seed] == pytest.approx(metrics["image"]["strict"]["10"]["mAP"])
        assert full.by_seed[seed] == pytest.approx(metrics["shipped"]["strict"]["10"]["mAP"])


def test_a_missing_ranking_leaves_out_its_cell_with_a_reason(
    ablation: Ablation, steps: Steps, done: AblationResults, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = make_grid("proposals", BASE, ["oracle-boxes", "whole-photo-queries"])
    found = run_ablation(replace(ablation, grid=grid, seeds=(0, 1)), steps)
    assert [row.cell for row in found.rows] == ["full", "whole-photo-queries"]
    assert "no ranking oracle_boxes" in found.left_out["oracle-boxes"]
    assert capsys.readouterr().out.count("left out: the evaluation has no ranking") == 1
