"""`product1m ui`: MLflow's page of a version."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Annotated
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import typer

from product1m.cli.options import CANDIDATE_MODEL
from product1m.config import RegistrationConfig
from product1m.registry.roles import CHALLENGER, ModelNames

START_S = 600.0
"""How long MLflow may take to listen (ours)."""
INTERRUPTED = 130
"""Exit code after Ctrl+C, as of a shell."""


def ui(
    which: Annotated[
        str, typer.Argument(help="Number or alias of a candidate version, or `champion`.")
    ] = CHALLENGER,
    port: Annotated[int, typer.Option(help="Port of the page.", min=1, max=65535)] = 5000,
    open_page: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in a browser, if there is one.")
    ] = True,
) -> None:
    """Open a version's page in MLflow, at the store in MLFLOW_TRACKING_URI.

    For a database on this machine it starts MLflow's server, until Ctrl+C.
    """
    from product1m.registry.versions import find
    from product1m.serving.web.server import open_browser

    names = ModelNames(CANDIDATE_MODEL, RegistrationConfig().champion_model)
    version = find(which, names)
    store = os.environ["MLFLOW_TRACKING_URI"]
    is_server = store.startswith(("http://", "https://"))
    site = store.rstrip("/") if is_server else f"http://127.0.0.1:{port}"
    page = f"{site}/#/models/{version.model}/versions/{version.number}"
    with nullcontext() if is_server else _running(store, site, port) as server:
        typer.echo(f"{version.title}: {page}")
        if open_page:
            open_browser(page)
        if server:
            typer.echo("Ctrl+C ends the server")
            server.wait()


@contextmanager
def _running(store: str, site: str, port: int) -> "Iterator[subprocess.Popen[bytes]]":
    """MLflow's own server, which ends with the block or at SIGTERM, with all its processes."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", store]
    server = subprocess.Popen(
        [*command, "--port", str(port)], stderr=subprocess.DEVNULL, start_new_session=True
    )
    typer.echo(f"starting MLflow at {site}", err=True)
    try:
        try:
            _wait_for(server, site)
        except KeyboardInterrupt as error:
            raise typer.Exit(INTERRUPTED) from error
        yield server
    except KeyboardInterrupt:
        typer.echo("stopped")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def _wait_for(server: "subprocess.Popen[bytes]", site: str) -> None:
    """Wait until it listens; BadParameter if it does not."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urlopen(f"{site}/health", timeout=5):  # noqa: S310  this machine's own
                return
        except (URLError, HTTPError, OSError):
            time.sleep(0.2)
    raise typer.BadParameter(f"MLflow does not listen at {site}; choose another --port")
