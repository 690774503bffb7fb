"""Registration, promotion, search and sample on disks that are full, read-only or forbidden.

A long campaign; `make faults` runs it and prints the figures.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from product1m.cli.app import app
from product1m.errors import Product1MError
from product1m.telemetry.environment import environment_set
from product1m.telemetry.mlflow_files import sqlite_uri
from tests.support.kills.registry import MODELS, prepare_promotion, promote
from tests.support.worlds.registered_model import LENIENT, run_registration
from tests.support.worlds.small_disk import outcome, small_disk
from tests.support.worlds.tiny_world import TinyArtifacts

KIB = 1 << 10


def product1m(*arguments: object) -> None:
    """Run a command; its error as an exception."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exit_code:
        raise Product1MError(result.output.strip())


def commands(made: TinyArtifacts, registered: Path) -> dict[str, Callable[[Path], object]]:
    """What writes to a folder, or has its temporary files there."""
    photo = next((made.root / "dataset" / "images").glob("queries-*.jpg"))
    candidate = f"models:/{MODELS.candidate}/1"
    store = {"MLFLOW_TRACKING_URI": sqlite_uri(registered / "run" / "mlflow.db")}

    def search(*options: object) -> None:
        with environment_set(store):
            product1m("search", photo, "--title", "Lumi rose", "--model", candidate, *options)

    def register(out: Path) -> None:
        with environment_set(store):
            run_registration(made, out, LENIENT)

    def temporary(act: Callable[[], object]) -> Callable[[Path], None]:
        def run(disk: Path) -> None:
            before, tempfile.tempdir = tempfile.tempdir, str(disk)
            try:
                act()
            finally:
                tempfile.tempdir = before

        return run

    return {
        "registration": lambda disk: register(disk / "out"),
        "registration, temporary": temporary(lambda: register(registered / "again")),
        "promotion, temporary": temporary(lambda: promote(made.root, registered)),
        "search": lambda disk: search("--output", disk / "page.html"),
        "search, temporary": temporary(search),
        "make-sample": lambda disk: product1m("make-sample", disk / "sample"),
    }


@pytest.mark.slow
def test_every_command_of_the_registry_on_every_disk(
    made: TinyArtifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)
    registered = tmp_path / "registered"
    registered.mkdir()
    prepare_promotion(made.root, registered)
    outcomes: dict[str, str] = {}
    for name, act in commands(made, registered).items():
        for size in (64 * KIB, 400 * KIB):
            with small_disk(tmp_path / "disk", size) as disk:
                outcomes[f"{name}, {size} bytes"] = outcome(act, disk)
        with small_disk(tmp_path / "disk", 4096 * KIB, read_only=True) as disk:
            outcomes[f"{name}, read-only"] = outcome(act, disk)
        shutil.rmtree(tmp_path / "disk")
    failures = {name: how for name, how in outcomes.items() if how not in ("clear", "finished")}
    clear = sum(how == "clear" for how in outcomes.values())
    figures = {"attempts": len(outcomes), "clear": clear, "failures": failures}
    sys.stdout.write(f"{json.dumps(figures, indent=1)}\n")
    assert failures == {}
    assert clear >= len(outcomes) / 2, "most disks are too small"
