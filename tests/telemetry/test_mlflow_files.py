"""A local MLflow store keeps its files beside its database, whatever the folder is called."""

import shutil
from pathlib import Path

import pytest

from pipelines.local.mlflow_run import start_run
from product1m.errors import RegistryError
from product1m.registry.versions import list_versions
from product1m.telemetry.mlflow_client import download, registry_mlflow
from product1m.telemetry.mlflow_files import sqlite_path, sqlite_uri

NAMES = ("plain", "a b", "50%25 off", "what?", "a#b", "caf\u00e9", "cafe\u0301")


@pytest.mark.parametrize("name", NAMES)
def test_the_address_of_a_database_leads_back_to_its_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / name / "mlflow.db"
    assert sqlite_path(sqlite_uri(path)) == path


def test_a_moved_output_folder_still_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All hard names in one path; then the folder gets another one."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    output = tmp_path / "a b%20c?d#e caf\u00e9"
    output.mkdir()
    tracked = start_run(output, {"preset": "sample"})
    (tmp_path / "file.txt").write_text("content")
    tracked.attach(tmp_path / "file.txt")
    tracked.end("FINISHED", {})
    assert [path.name for path in (output / "mlflow-artifacts").rglob("*.txt")] == ["file.txt"]

    def fetched(place: Path) -> str:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_uri(place / "mlflow.db"))
        target = tmp_path / f"fetched from {place.name}"[:40]
        target.mkdir()
        return download(f"runs:/{tracked.run_id}", "file.txt", target).read_text()

    assert fetched(output) == "content"
    moved = tmp_path / "moved here"
    shutil.move(output, moved)
    assert fetched(moved) == "content"
    run = registry_mlflow().MlflowClient().get_run(tracked.run_id)
    assert run.info.artifact_uri.startswith((moved / "mlflow-artifacts").as_uri())


def test_runs_into_one_database_keep_their_files_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in the folder of whichever run was the first."""
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    (tmp_path / "store").mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_uri(tmp_path / "store" / "mlflow.db"))
    (tmp_path / "file.txt").write_text("content")
    start_run(tmp_path / "first", {}).attach(tmp_path / "file.txt")
    assert len(list((tmp_path / "store" / "mlflow-artifacts").rglob("file.txt"))) == 1
    assert not (tmp_path / "first").exists()


def test_a_database_that_does_not_exist_is_named_and_not_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "build" / "mine").mkdir(parents=True)
    (tmp_path / "build" / "mine" / "mlflow.db").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_uri(tmp_path / "misspelled" / "mlflow.db"))
    with pytest.raises(RegistryError, match=r"misspelled/mlflow\.db: .*no such file") as failure:
        list_versions("product1m-candidate")
    assert sqlite_uri(tmp_path / "build" / "mine" / "mlflow.db") in str(failure.value)
    assert not (tmp_path / "misspelled").exists()
