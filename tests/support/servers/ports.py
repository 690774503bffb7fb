"""Ports for servers of the tests."""

import socket

_given: set[int] = set()


def free_port() -> int:
    """A port of this machine that no server uses, and that was not given to another one."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in _given:
            _given.add(port)
            return port
