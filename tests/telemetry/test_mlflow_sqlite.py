"""MLflow's database after first runs that were killed, and after two at once."""

import contextlib
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from product1m.errors import TrackingError
from product1m.telemetry import mlflow_sqlite
from product1m.telemetry.mlflow_sqlite import ready_store

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # mlflow warns about itself

FIRST_RUN = """
import sys
from product1m.telemetry.mlflow_sqlite import ready_store
from mlflow import MlflowClient
sys.stdin.readline()
ready_store(sys.argv[1])
print(MlflowClient(sys.argv[1]).create_run("0").info.run_id)
"""
MAKE_IN_PLACE = """
import resource, signal, sys
from mlflow import MlflowClient
sys.dont_write_bytecode = True
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))
MlflowClient(sys.argv[1]).create_run("0")
"""


def uri_of(path: Path) -> str:
    return f"sqlite:///{path}"


def test_two_first_runs_on_one_new_store_both_work(tmp_path: Path) -> None:
    uri = uri_of(tmp_path / "new" / "mlflow.db")
    (tmp_path / "new").mkdir()
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", FIRST_RUN, uri],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    ids = [run.communicate("go\n", timeout=120)[0].strip() for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    found = MlflowClient(uri).search_runs(["0"])
    assert {run.info.run_id for run in found} == set(ids)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mlflow.db"]


def test_a_database_that_a_killed_process_left_half_made_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    killed = subprocess.run(
        [sys.executable, "-c", MAKE_IN_PLACE, uri_of(path), "400000"],
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGXFSZ
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT name FROM sqlite_master WHERE name = 'runs'").fetchone()
    ready_store(uri_of(path))
    assert MlflowClient(uri_of(path)).create_run("0").info.status == "RUNNING"
    assert [file.name for file in tmp_path.iterdir()] == ["mlflow.db"]


def test_the_lock_of_a_process_that_was_killed_after_its_work_goes_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mlflow.db"
    ready_store(uri_of(path))
    monkeypatch.setattr(mlflow_sqlite, "_ready", set())
    (tmp_path / ".mlflow.db.lock").write_text("")
    ready_store(uri_of(path))
    assert [file.name for file in tmp_path.iterdir()] == ["mlflow.db"]


def test_a_half_made_database_with_runs_is_kept_and_the_message_says_what_to_do(
    tmp_path: Path,
) -> None:
    path = tmp_path / "mlflow.db"
    ready_store(uri_of(path))
    MlflowClient(uri_of(path)).create_run("0")
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE alembic_version SET version_num = '0a8213491aaa'")
        database.commit()
    path.replace(tmp_path / "moved.db")  # this process has checked the other name
    with pytest.raises(TrackingError, match=r"schema 0a8213491aaa.*copy it and run `mlflow db up"):
        ready_store(uri_of(tmp_path / "moved.db"))
    with contextlib.closing(sqlite3.connect(tmp_path / "moved.db")) as database:
        assert database.execute("SELECT COUNT(*) FROM runs").fetchone() == (1,)


def test_a_database_that_was_killed_in_a_commit_or_is_locked_is_never_taken_for_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, left = tmp_path / "mlflow.db", tmp_path / "left"
    ready_store(uri_of(path))
    run = MlflowClient(uri_of(path)).create_run("0").info.run_id
    left.mkdir()
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA cache_size = 1")  # what is written in part is in the file
        database.execute("UPDATE alembic_version SET version_num = 'half'")
        database.execute("UPDATE runs SET name = ?", ["x" * 100_000])
        for file in tmp_path.glob("mlflow.db*"):
            (left / file.name).write_bytes(file.read_bytes())
        monkeypatch.setattr(mlflow_sqlite, "LOCK_S", 0.1)
        monkeypatch.setattr(mlflow_sqlite, "_ready", set())
        with pytest.raises(TrackingError, match=r"cannot be read now .*locked"):
            ready_store(uri_of(path))
    assert (left / "mlflow.db-journal").exists()
    ready_store(uri_of(left / "mlflow.db"))
    for database_uri in (uri_of(path), uri_of(left / "mlflow.db")):
        found = MlflowClient(database_uri).search_runs(["0"])
        assert [r.info.run_id for r in found] == [run]


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_text("notes " * 1000)
    with pytest.raises(TrackingError, match=r"mlflow\.db: expected MLflow's SQLite database"):
        ready_store(uri_of(path))
    assert path.read_text().startswith("notes")


def test_an_empty_file_and_a_server_need_nothing(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    ready_store(uri_of(tmp_path / "mlflow.db"))
    assert MlflowClient(uri_of(tmp_path / "mlflow.db")).search_experiments()
    ready_store("http://127.0.0.1:9")
    ready_store("sqlite:///:memory:")
