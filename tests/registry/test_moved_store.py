"""A run's folder with its SQLite store is moved after a promotion: the champion still answers."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.local.mlflow_run import start_run
from product1m.cli.app import app
from product1m.telemetry.mlflow_files import sqlite_uri
from tests.support.worlds.registered_model import LENIENT, models_of, promote, run_registration
from tests.support.worlds.tiny_world import TinyArtifacts

pytestmark = [
    pytest.mark.usefixtures("reviewer_keys", "asked_here"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # mlflow warns about itself
]


def search(photo: Path, output: Path) -> list[str]:
    """Ids that the champion answers."""
    arguments = ["search", str(photo), "--title", "Lumi rose", "--output", str(output)]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    answers = json.loads(output.read_text("utf-8"))
    return [answer["id"] for answer in answers["merged"]]


def test_a_champion_moves_with_the_folder_of_its_run(
    made: TinyArtifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    output, moved = tmp_path / "first place", tmp_path / "second place"
    output.mkdir()
    run = start_run(output, {"preset": "sample"})
    for name, value in run.environment.items():
        monkeypatch.setenv(name, value)
    version = run_registration(made, tmp_path / "registration", LENIENT)
    monkeypatch.delenv("MLFLOW_RUN_ID")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID")
    promote(version.number, models_of(LENIENT))
    photo = next((made.root / "dataset" / "images").glob("queries-*.jpg"))
    before = search(photo, tmp_path / "before.json")
    assert len(before) == 5

    shutil.move(output, moved)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_uri(moved / "mlflow.db"))
    assert search(photo, tmp_path / "after.json") == before
    assert sorted(path.name for path in moved.iterdir()) == ["mlflow-artifacts", "mlflow.db"]
