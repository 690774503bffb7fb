"""Where a SQLite store of MLflow keeps its files: beside the database, even after both moved.

MLflow writes absolute addresses into its database. When the folder of a run is moved or copied, its
files move with it, so the addresses are corrected when the database is opened at another place.
"""

import contextlib
import logging
import sqlite3
from pathlib import Path
from urllib.parse import quote

from product1m.errors import RegistryError

logger = logging.getLogger(__name__)

DATABASE = "mlflow.db"
"""Database of a run on this machine, in its output folder."""
FILES = "mlflow-artifacts"
"""Folder of the files, beside the database."""
_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)
"""Table and column of MLflow 3.17 that hold addresses of files."""


def sqlite_uri(path: Path) -> str:
    """MLflow's address of a database file; `?`, `#` and `%` in its name are quoted."""
    return f"sqlite:///{quote(str(path.absolute()))}"


def sqlite_path(uri: str) -> Path | None:
    """The database file of an address; None for other addresses and databases in memory."""
    if not uri.startswith("sqlite:"):
        return None
    from sqlalchemy.engine import make_url

    name = make_url(uri).database
    return Path(name).absolute() if name and name != ":memory:" else None


def require_database(uri: str) -> None:
    """RegistryError for a SQLite address without a file, with the databases below `build`."""
    path = sqlite_path(uri)
    if path is None or path.exists():
        return
    databases = sorted(Path("build").glob(f"*/{DATABASE}"), key=lambda file: -file.stat().st_mtime)
    known = (
        f"; there is {', '.join(sqlite_uri(file) for file in databases[:3])}" if databases else ""
    )
    raise RegistryError(
        f"{path}: MLFLOW_TRACKING_URI names this database, and there is no such file; a run writes "
        f"{DATABASE} into its output folder (`make sample`, or `python -m pipelines run`){known}"
    )


def files_beside(uri: str) -> str | None:
    """Address of a SQLite store's own files; None for a server, which has a place for them."""
    path = sqlite_path(uri)
    return (path.parent / FILES).as_uri() if path else None


def follow_move(uri: str) -> None:
    """Correct the addresses in a database that was moved together with its files.

    An experiment's address is changed if its folder is gone and one of that name is beside the
    database.
    """
    path = sqlite_path(uri)
    if path is None or not path.is_file():
        return
    with contextlib.closing(sqlite3.connect(path, timeout=60)) as database:
        try:
            rows = database.execute("SELECT artifact_location FROM experiments").fetchall()
        except sqlite3.OperationalError:  # not yet MLflow's
            return
        for (old,) in rows:
            folder = _folder_of(str(old))
            if folder is None or folder.is_dir() or not (path.parent / folder.name).is_dir():
                continue
            new = (path.parent / folder.name).as_uri()
            logger.info("%s: moved; its files are now at %s, not at %s", path, new, old)
            _replace(database, old, new)


def _folder_of(address: str) -> Path | None:
    """The folder of an address; None if it is on a server or in a bucket."""
    from mlflow.utils.file_utils import local_file_uri_to_path

    if not address.startswith(("file:", "/")):
        return None
    return Path(local_file_uri_to_path(address))


def _replace(database: sqlite3.Connection, old: str, new: str) -> None:
    with database:
        for table, column in _ADDRESSES:
            database.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608
                f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
            )
