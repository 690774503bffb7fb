"""`summary.json` and what a person reads at the end of a run."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.local.console import StepTime
from pipelines.local.mlflow_run import TrackedRun
from pipelines.local.summary import PRODUCED_BY, RunSummary, show, summarize
from product1m.artifacts.folder import Artifact, open_artifact, write_artifact
from product1m.config import load_config

SCORES = {
    definition: {
        str(depth): {"mAP": value, "mAR": value + 0.01, "Prec": value + 0.02}
        for depth in (10, 50, 100)
    }
    for definition, value in (("strict", 0.4), ("official", 0.5))
}
METRICS = {
    "test": {"shipped": SCORES, "image": SCORES},
    "dev": {"shipped": SCORES},
    "differences": {"image": {"mean": 0.125, "low": 0.0625, "high": 0.25}},
    "intervals": {"shipped": {"mean": 0.4, "low": 0.3, "high": 0.5}},
    "fusion": {"joint": 0.0, "image": 1.0},
    "detection": {
        "products_found@1": {"mean": 0.8125, "low": 0.75, "high": 0.875},
        "precision": {"mean": 0.9375, "low": 0.9, "high": 0.95},
    },
}


def finished(folder: Path, name: str) -> Artifact:
    step, part = PRODUCED_BY[name]
    with write_artifact(folder / name, step, getattr(load_config("sample"), step), part=part) as w:
        (w.folder / "weights").write_bytes(b"12345")
        if name == "evaluation":
            (w.folder / "metrics.json").write_text(json.dumps(METRICS))
            (w.folder / "report.html").write_text("<html>")
        if name == "registration":
            w.details.update(name="product1m-candidate", version=7, verdict="passed")
            w.metrics["rules_not_passed"] = 0.0
        if name == "rpn":
            w.metrics["recall@0.5/36"] = 0.9
        if name == "train_features":
            w.metrics["regions"] = 12.0
    artifact = open_artifact(folder / name, step, part)
    artifact.manifest.seconds = {"train": 1.0, "gallery": 3.0}.get(name, 2.0)
    artifact.manifest.cpu_seconds = 1.5
    artifact.manifest.peak_gpu_memory_mib = {"capture": 4096.0}.get(name, 0.0)
    artifact.manifest.peak_memory_mib = {"capture": 2048.0}.get(name, 512.0)
    return artifact


@pytest.fixture
def summary(tmp_path: Path) -> RunSummary:
    artifacts = {name: finished(tmp_path, name) for name in PRODUCED_BY}
    steps = {
        task: StepTime(seconds=5.0)
        for task in (
            "ingestion",
            "background_synthesis",
            "rpn_training",
            *(f"feature_extraction/{part}" for part in ("scenes", "gallery", "queries")),
            "capture_pretraining",
            "indexing",
            "evaluation",
            "registration",
        )
    }
    steps["feature_extraction/train"] = StepTime(cached=True)
    tracked = TrackedRun("sqlite:////x/mlflow.db", "1", 0, "run-1")
    return summarize("sample", {"dataset_uri": "/data"}, steps, artifacts, tracked)


def test_the_summary_has_what_ci_and_people_read(summary: RunSummary, tmp_path: Path) -> None:
    summary.write(tmp_path / "summary.json")
    written: dict[str, Any] = json.loads((tmp_path / "summary.json").read_text())
    assert written["metrics"]["test"]["shipped"]["strict"]["10"]["mAP"] == 0.4
    assert written["metrics"]["test"]["image"]["official"]["100"]["Prec"] == 0.52
    assert written["differences"] == METRICS["differences"]
    assert written["detection"] == METRICS["detection"]
    assert written["rpn"] == {"recall@0.5/36": 0.9}
    assert written["model"] == {
        "name": "product1m-candidate",
        "version": "7",
        "gate": "passed",
    }
    assert written["report"] == str(tmp_path / "evaluation" / "report.html")
    assert written["peak_memory_mib"] == 2048.0
    assert written["artifacts"]["capture"]["path"] == str(tmp_path / "capture")
    assert written["artifacts"]["capture"]["num_bytes"] == 5
    assert len(written["artifacts"]["capture"]["digest"]) == 64
    assert written["mlflow"] == {"tracking_uri": "sqlite:////x/mlflow.db", "run_id": "run-1"}


def test_a_cached_step_keeps_its_figures_and_is_marked(summary: RunSummary) -> None:
    assert len(summary.steps) == 11
    cached = summary.steps["feature_extraction/train"]
    assert (cached.cached, cached.seconds, cached.wall_seconds) == (True, 2.0, 0.0)
    assert not summary.steps["feature_extraction/gallery"].cached
    assert summary.seconds == 50.0, "ten steps of five seconds ran"
    assert summary.cached_metrics == {"feature_extraction/train/regions": 12.0}


def test_a_step_with_several_parts_takes_as_long_as_the_longest(summary: RunSummary) -> None:
    assert summary.steps["ingestion"].seconds == 3.0


def test_the_cost_of_a_step_is_in_its_row(summary: RunSummary) -> None:
    row = summary.steps["capture_pretraining"]
    assert (row.cpu_seconds, row.peak_memory_mib, row.peak_gpu_memory_mib) == (1.5, 2048.0, 4096.0)


def test_the_end_of_a_run_shows_every_method_and_where_to_look_next(
    summary: RunSummary, capsys: pytest.CaptureFixture[str]
) -> None:
    show(summary, seconds=61.0)
    shown = capsys.readouterr().out
    for text in ("shipped", "image", "0.400", "0.510", "+0.125 [+0.062, +0.250]"):
        assert text in shown
    assert "product1m-candidate version 7; gate: passed" in shown
    assert str(summary.report) in shown
    assert "export MLFLOW_TRACKING_URI=sqlite:////x/mlflow.db" in shown
    assert "product1m serve --model models:/product1m-candidate/7 " in shown
    assert "cached" in shown
    assert "peak memory 2.0 GiB" in shown
