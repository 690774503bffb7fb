"""MLflow's database on SQLite: created whole and once, even if several processes start together.

MLflow creates its tables and migrates them in place, which takes seconds and is not one
transaction: a process that is killed in between, or a second one at the same time, leaves a
database that MLflow never opens again. So it is created in a hidden file, under a lock, and
renamed.
"""

import contextlib
import logging
import os
import sqlite3
from pathlib import Path
from typing import Any

from product1m.errors import TrackingError
from product1m.storage.folder import hidden_beside
from product1m.storage.locks import lock_of, only_writer
from product1m.telemetry.mlflow_files import sqlite_path, sqlite_uri

logger = logging.getLogger(__name__)

LOCK_S = 20.0
"""How long another process may hold the database before that is an error (ours)."""
_CONTENT = (
    "SELECT COUNT(*) FROM runs",
    "SELECT COUNT(*) FROM registered_models",
    "SELECT COUNT(*) FROM experiments WHERE experiment_id <> 0",
)
_FAST = ("PRAGMA synchronous = OFF", "PRAGMA journal_mode = MEMORY")
"""For a file that a crash may damage, because nobody uses it yet."""
_ready: set[tuple[Path, int]] = set()
"""Databases that this process has checked: path and inode."""


def ready_store(uri: str) -> None:
    """Create the SQLite database of an MLflow address if it is missing or was left half made.

    Does nothing for other addresses. Raises TrackingError for a database that has another schema
    and holds runs, and for a file that is not a database.
    """
    path = sqlite_path(uri)
    if path is None or (path.exists() and (path, path.stat().st_ino) in _ready):
        return
    from mlflow import MlflowClient

    if not _is_whole(path) or lock_of(path).exists():  # a killed process left its lock
        with only_writer(path, wait=True):
            if not _is_whole(path):
                _require_empty(path)
                _create(path)
                # MLflow adds its default experiment when it opens a database; two at once fail.
                MlflowClient(uri).search_experiments(max_results=1)
    _ready.add((path, path.stat().st_ino))


def _is_whole(path: Path) -> bool:
    from mlflow.store.db.utils import _get_latest_schema_revision

    if not path.exists() or _revision(path) != _get_latest_schema_revision():
        return False
    row = _ask(path, "SELECT COUNT(*) FROM experiments")
    return bool(row and row[0])


def _revision(path: Path) -> str:
    """The database's schema version; empty if it has none."""
    row = _ask(path, "SELECT version_num FROM alembic_version")
    return str(row[0]) if row else ""


def _require_empty(path: Path) -> None:
    """Raise TrackingError if an unfinished database, or one of another version, holds anything."""
    if not path.exists():
        return
    for question in _CONTENT:
        row = _ask(path, question)
        if row and row[0]:
            raise TrackingError(
                f"{path}: this database of MLflow has the schema {_revision(path) or 'none'}, "
                "so another version of MLflow made it, or its migration was interrupted; it "
                f"holds runs: copy it and run `mlflow db upgrade {sqlite_uri(path)}`, "
                "or use another --output or MLFLOW_TRACKING_URI"
            )
    logger.warning("%s: a killed process left this database without runs; creating it again", path)


def _ask(path: Path, question: str) -> Any:
    """The first row of an answer; None if there is none, or not even the table.

    The database is opened for writing, because SQLite then takes back what a killed process wrote
    in part. Raises TrackingError for whatever else prevents an answer, such as a lock: a database
    that cannot be asked is never taken for an empty one.
    """
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", timeout=LOCK_S, uri=True)
        ) as database:
            return database.execute(question).fetchone()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return None
        raise TrackingError(
            f"{path}: MLflow's database cannot be read now ({error}); end the process that holds "
            "it, or check the permissions of the file and its folder, and try again"
        ) from error
    except sqlite3.DatabaseError as error:
        raise TrackingError(
            f"{path}: expected MLflow's SQLite database, got something else ({error}); use another "
            "--output or MLFLOW_TRACKING_URI"
        ) from error


def _create(path: Path) -> None:
    import mlflow.store.model_registry.sqlalchemy_store
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 both declare their tables
    import sqlalchemy
    from mlflow.store.db.utils import _initialize_tables

    with hidden_beside(path) as partial:
        engine = sqlalchemy.create_engine(sqlalchemy.URL.create("sqlite", database=str(partial)))

        @sqlalchemy.event.listens_for(engine, "connect")
        def write_fast(connection: Any, _record: Any) -> None:
            for pragma in _FAST:
                connection.execute(pragma)

        _initialize_tables(engine)
        engine.dispose()
        for rest in (f"{path.name}-journal", f"{path.name}-wal", f"{path.name}-shm"):
            path.with_name(rest).unlink(missing_ok=True)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
