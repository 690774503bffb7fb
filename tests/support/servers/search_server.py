"""A real process of `product1m serve`."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import requests

MAX_WAIT_S = 600


@dataclass
class SearchServer:
    """A server that listens."""

    url: str
    """Without a slash at the end."""
    process: "subprocess.Popen[str]"
    lines: list[dict[str, Any]] = field(default_factory=list)
    """What it logged so far."""

    def get(self, path: str) -> requests.Response:
        """Ask for a path."""
        return requests.get(self.url + path, timeout=MAX_WAIT_S)

    def is_listening(self) -> bool:
        """Whether new connections are taken."""
        try:
            self.get("/healthz")
        except requests.ConnectionError:
            return False
        return True

    def post(self, path: str, **arguments: Any) -> requests.Response:
        """Send to a path."""
        return requests.post(self.url + path, timeout=MAX_WAIT_S, **arguments)


@contextmanager
def running_search_server(
    *arguments: str, environment: Mapping[str, str] | None = None
) -> Iterator[SearchServer]:
    """Start `product1m serve` with further arguments at any free port, and end it with SIGTERM."""
    process = subprocess.Popen(
        [sys.executable, "-m", "product1m", "serve", "--port", "0", *arguments],
        stderr=subprocess.PIPE,
        env={**os.environ, "PRODUCT1M_LOG": "json", **(environment or {})},
        text=True,
    )
    assert process.stderr is not None
    output: list[str] = []
    server = SearchServer("", process)
    for text in process.stderr:
        output.append(text)
        if text.startswith("{") and "url" in (line := json.loads(text)):
            server.url = line["url"].rstrip("/")
            break
    else:
        raise AssertionError(f"it ended with {process.wait()}: {''.join(output)}")
    reader = threading.Thread(target=_read, args=(server,))
    reader.start()
    try:
        yield server
    finally:
        process.terminate()
        process.wait(MAX_WAIT_S)
        reader.join(MAX_WAIT_S)


def _read(server: SearchServer) -> None:
    assert server.process.stderr is not None
    server.lines += (json.loads(text) for text in server.process.stderr if text.startswith("{"))
