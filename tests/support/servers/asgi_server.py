"""An ASGI app at a real socket, in a thread of the test's process."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from tests.support.servers.ports import free_port


@contextmanager
def listening(app: Any, **settings: Any) -> Iterator[int]:
    """Serve an app with uvicorn's settings; the port."""
    port = free_port()
    config = uvicorn.Config(app, port=port, log_config=None, lifespan="off", **settings)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield port
    finally:
        server.should_exit = True
        thread.join()
