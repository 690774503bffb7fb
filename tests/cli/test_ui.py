"""`product1m ui`, and what every command shares."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

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


COMPLETE = {
    "bash": """
        source /dev/stdin
        COMP_WORDS=(product1m registry pro); COMP_CWORD=2
        _product1m_completion product1m
        echo "${COMPREPLY[@]}"
    """,
    "zsh": """
        compdef() { :; }
        _arguments() { print -r -- "$@"; }
        source /dev/stdin
        words=(product1m registry pro); CURRENT=3
        _product1m_completion
    """,
}
"""What a shell does when Tab is pressed after `product1m registry pro`."""


@pytest.mark.parametrize("shell", COMPLETE)
def test_a_shell_completes_commands(shell: str) -> None:
    assert "--install-completion" in CliRunner().invoke(app, ["--help"]).output
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell} on the PATH")
    program = Path(sys.executable).with_name("product1m")
    environment = os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}"}
    script = subprocess.run(
        [program],
        env=environment | {"_PRODUCT1M_COMPLETE": f"source_{shell}"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    options = ["-f", "-c"] if shell == "zsh" else ["-c"]
    done = subprocess.run(
        [shell, *options, COMPLETE[shell]],
        env=environment,
        input=script,
        check=True,
        capture_output=True,
        text=True,
    )
    assert "promote" in done.stdout
    assert "rollback" not in done.stdout


@pytest.mark.usefixtures("store")
def test_without_a_champion_search_says_what_to_try(
    registered: ModelVersion, mlflow_store: MlflowStore
) -> None:
    with mlflow_store.active():
        newest = list_versions(registered.model)[0].promote_command
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
    assert f"promote it: `{newest}`" in shown.output
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
