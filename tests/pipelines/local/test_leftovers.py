"""What runs leave in their output folder when they are killed, and what the next one does."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pipelines.local.leftovers import cleaned_up
from pipelines.local.mlflow_run import start_run

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # mlflow warns about itself


class _KilledError(Exception):
    pass


def task(output: Path, graph: str, name: str, *, cached: bool) -> Path:
    """A finished task; with `cached`, one that a cache refers to."""
    folder = output / "pipeline" / graph / name
    folder.mkdir(parents=True)
    (folder / "features").mkdir()
    (folder / "features" / "manifest.json").write_text("{}")
    if cached:
        entry: dict[str, Any] = {"__kfp_artifact__": True, "uri": str(folder / "features")}
        cache = output / "cache" / "0123"
        cache.mkdir(parents=True, exist_ok=True)
        (cache / f"{graph}-{name}.json").write_text(json.dumps({"features": entry}))
    return folder


def test_of_a_killed_graph_only_what_the_cache_knows_stays(tmp_path: Path) -> None:
    earlier = task(tmp_path, "training-1", "indexing", cached=False)
    with contextlib.suppress(_KilledError), cleaned_up(tmp_path):
        kept = task(tmp_path, "training-2", "ingestion", cached=True)
        unfinished = task(tmp_path, "training-2", "indexing", cached=False)
        alone = task(tmp_path, "training-3", "indexing", cached=False)
        (tmp_path / "cache" / "0123" / ".kfp_cache_x.tmp").touch()
        raise _KilledError
    assert unfinished.exists(), "until the next run, for whoever wants to look"
    with cleaned_up(tmp_path):
        assert earlier.exists(), "of a run that ended well"
        assert kept.exists()
        assert not unfinished.exists()
        assert not alone.parent.exists(), "no empty folder of a graph"
        assert not [*(tmp_path / "cache").rglob("*.tmp")]
        last = task(tmp_path, "training-4", "evaluation", cached=False)
    assert [path.name for path in (tmp_path / "pipeline").glob(".*")] == []
    with cleaned_up(tmp_path):
        assert last.exists()


def test_the_next_run_of_an_output_folder_ends_the_mlflow_run_of_a_killed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    killed = start_run(tmp_path / "here", {"preset": "sample"})
    child = killed.child("cell", {}, {})
    elsewhere = start_run(tmp_path / "elsewhere", {})
    own = start_run(tmp_path / "here", {"preset": "sample"})
    client = MlflowClient(uri)
    status = {
        run: client.get_run(run.run_id).info.status for run in (killed, child, elsewhere, own)
    }
    assert [*status.values()] == ["KILLED", "KILLED", "RUNNING", "RUNNING"]
    assert client.get_run(own.run_id).data.tags["preset"] == "sample"
