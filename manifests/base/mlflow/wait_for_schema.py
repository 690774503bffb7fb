"""Wait until the database has the schema of this MLflow, for runs and for accounts.

Two replicas that start on an empty database would both create the tables, and a replica on an older
schema would stop. So a pod starts its server only after the migration job is done.
"""

import importlib.metadata
import importlib.util
import os
import sys
import time
from pathlib import Path

import sqlalchemy
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import OperationalError

PACKAGE = Path(str(importlib.util.find_spec("mlflow").origin)).parent  # found, not loaded
VERSION_TABLES = {
    "alembic_version": PACKAGE / "store/db_migrations",
    "alembic_version_auth": PACKAGE / "server/auth/db/migrations",
}
POLL_S = 5


def missing(engine: sqlalchemy.Engine) -> str:
    """What the database still lacks; empty if nothing is missing."""
    try:
        with engine.connect() as connection:
            for table, scripts in VERSION_TABLES.items():
                context = MigrationContext.configure(connection, opts={"version_table": table})
                found = context.get_current_revision()
                expected = ScriptDirectory(str(scripts)).get_current_head()
                if found != expected:
                    return f"{table} is at {found}, expected {expected}"
    except OperationalError as error:
        return str(error.orig).strip()
    return ""


def main() -> None:
    """Poll until nothing is missing; the exit code is 1 when the time is up."""
    deadline = time.monotonic() + float(os.environ.get("TIMEOUT_S", "900"))
    engine = sqlalchemy.create_engine(os.environ["MLFLOW_BACKEND_STORE_URI"])
    while reason := missing(engine):
        if time.monotonic() > deadline:
            sys.exit(f"the schema is missing: {reason}; see the log of job/mlflow-migration")
        print(f"waiting for job/mlflow-migration: {reason}", flush=True)
        time.sleep(POLL_S)
    print("the schema is that of MLflow", importlib.metadata.version("mlflow"))


if __name__ == "__main__":
    main()
