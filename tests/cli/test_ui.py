"""`product1m ui`, and what every command shares."""

import re
import signal
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from pipelines.__main__ import app as pipelines_app
from product1m import __version__
from product1m.cli.app import app
from product1m.cli.ui import INTERRUPTED
from product1m.registry.versions import ModelVersion, list_versions
from tests.support.servers.ports import free_port
from tests.support.worlds.registered_model import MlflowStore

MAX_WAIT_S = 600


@pytest.mark.parametrize("each", [app, pipelines_app])
def test_a_command_says_its_version(each: object) -> None:
    shown = CliRunner().invoke(each, ["--version"])  # type: ignore[arg-type]
    assert shown.exit_code == 0
    assert re.match(rf"product1m {re.escape(__version__)}, git revision \w+", shown.output)


def test_completion_for_a_shell_is_offered() -> None:
    assert "--install-completion" in CliRunner().invoke(app, ["--help"]).output


@pytest.mark.usefixtures("store")
def test_without_a_champion_search_says_what_to_try(
    registered: ModelVersion, mlflow_store: MlflowStore
) -> None:
    with mlflow_store.active():
        newest = list_versions(registered.model)[0].number
    photo = [
        "search",
        "demo/photos/lipstick.jpg",
        "--title",
        "x",
        "--model",
        "models:/nobody@champion",
    ]
    shown = CliRunner().invoke(app, photo)
    assert shown.exit_code == 1
    assert f"promote --version {newest} --reason" in shown.output
    assert f"--model models:/{registered.model}@challenger" in shown.output


@pytest.mark.slow  # it starts MLflow's server
@pytest.mark.usefixtures("store")
def test_the_address_of_a_versions_page_is_printed(registered: ModelVersion) -> None:
    port = free_port()
    command = [sys.executable, "-m", "product1m", "ui", "--port", str(port), "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if "http" in line and "GET" not in line)
        process.send_signal(signal.SIGINT)
        assert process.wait(MAX_WAIT_S) == 0
    assert line.strip().endswith(
        f"http://127.0.0.1:{port}/#/models/{registered.model}/versions/{registered.number}"
    )


@pytest.mark.slow  # it starts MLflow's server
@pytest.mark.usefixtures("store")
@pytest.mark.usefixtures("registered")
def test_an_interrupt_while_mlflow_starts_is_no_bug() -> None:
    command = [sys.executable, "-m", "product1m", "ui", "--port", str(free_port()), "--no-open"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if line.startswith("starting MLflow at http://"))
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(MAX_WAIT_S) == INTERRUPTED
    assert "bug" not in rest
