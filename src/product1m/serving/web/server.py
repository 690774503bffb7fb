"""Run the server's process: check what it needs, listen, and end without losing a request."""

import functools
import gc
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from product1m.config import ServerConfig
from product1m.errors import StorageError
from product1m.serving.web.limits import MAX_HEADER_BYTES, PunctualConnection
from product1m.storage.disk import reason_of

logger = logging.getLogger(__name__)

_TRIAL_BYTES = 2 << 20
"""More than what of an upload stays in memory (ours)."""


def check_temporary_folder() -> None:
    """StorageError unless models and uploads above 1 MiB can be written to a temporary folder."""
    try:
        folder = tempfile.gettempdir()
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * _TRIAL_BYTES)
            file.flush()
    except OSError as error:
        raise StorageError(
            f"no temporary folder can be written ({reason_of(error)}); uploads above 1 MiB and "
            "downloaded models need one: set TMPDIR to a writable folder, or mount one at /tmp (in "
            "Kubernetes an emptyDir)"
        ) from error


def check_address(host: str, port: int) -> None:
    """StorageError unless this process can listen there; tried before a model is loaded."""
    try:
        with socket.socket(_family(host)) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, port))
    except OSError as error:
        raise _cannot_listen(host, port, error.strerror or str(error)) from error


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _cannot_listen(host: str, port: int, reason: str) -> StorageError:
    return StorageError(
        f"cannot listen at {host}, port {port} ({reason}); choose another --port or --host"
    )


def check_kept_queries(folder: str) -> None:
    """StorageError unless photos can be kept in `serving.keep_queries`, if it is set."""
    if not folder:
        return
    place = Path(folder).expanduser()
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise StorageError(
            f"serving.keep_queries={folder}: cannot be written ({reason_of(error, place)})"
        ) from error


def run_server(
    app: FastAPI,
    host: str,
    port: int,
    config: ServerConfig,
    on_listening: Callable[[str], None] | None = None,
) -> None:
    """Listen until SIGTERM or SIGINT; requests in flight are answered then.

    Args:
        app, config: what answers, within which limits.
        host, port: where to listen; port 0 for any free one.
        on_listening: called once with the page's address.

    Raises StorageError if the address cannot be listened at.
    """
    settings = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=functools.partial(PunctualConnection, deadline_s=config.deadline_s),  # type: ignore[arg-type]
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=config.max_connections,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        timeout_graceful_shutdown=int(config.deadline_s) + 1,
    )
    try:
        listening = settings.bind_socket()
    except SystemExit as error:
        raise _cannot_listen(host, port, "see above") from error
    gc.collect()
    gc.freeze()  # what is loaded is not searched for garbage again, neither now nor at the end
    address = f"http://{host if ':' not in host else f'[{host}]'}:{listening.getsockname()[1]}/"
    _Server(settings, address, on_listening).run(sockets=[listening])
    logger.info("stopped; every request in flight was answered")


def open_browser(address: str) -> None:
    """Open a page, if this machine has a screen; a text browser would take the terminal."""
    has_screen = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    if sys.platform in ("darwin", "win32") or has_screen:
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()


class _Server(uvicorn.Server):
    """Logs its address once it listens, and does not end by the signal that ended it.

    A process that ends by a signal looks as if it had crashed.
    """

    def __init__(
        self, settings: uvicorn.Config, address: str, on_listening: Callable[[str], None] | None
    ) -> None:
        super().__init__(settings)
        self._address = address
        self._on_listening = on_listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        fields = {"url": self._address, "pid": os.getpid()}
        logger.info("listening on %s", self._address, extra={"fields": fields})
        if self._on_listening:
            self._on_listening(self._address)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End gracefully at a signal within the block."""
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
