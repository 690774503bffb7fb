"""One deadline for a whole request, from connecting to the last byte of the body.

The timeouts of `requests` apply to each read: a server that sends a single byte of a header, a
chunk size or a TLS handshake now and then never exceeds them. Here a timer shuts the connection
down instead, and the waiting read gets an error.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from requests.adapters import HTTPAdapter
from requests.utils import select_proxy
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

_current = threading.local()


class Deadline:
    """Time limit of each request in a block; a retry or redirect is a request of its own."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timer: threading.Timer | None = None
        self.expired = False
        """Whether the last request took too long."""

    def restart(self, connection: HTTPConnection) -> None:
        """Start the timer for a request that a connection is about to send."""
        self.cancel()
        self.expired = False
        self._timer = threading.Timer(self._seconds, self._end, [connection])
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        """The request has ended."""
        if self._timer is not None:
            self._timer.cancel()

    def _end(self, connection: HTTPConnection) -> None:
        self.expired = True
        sock = connection.sock or getattr(connection, "sent_through", None)
        if sock is None:
            return
        try:
            # Not SSLSocket.shutdown, which would take the TLS state from the thread that reads.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
        except OSError:
            return  # already closed


@contextmanager
def deadline(seconds: float) -> Iterator[Deadline]:
    """Limit every request that this thread sends through a `TimedAdapter` in the block."""
    _current.deadline = Deadline(seconds)
    try:
        yield _current.deadline
    finally:
        _current.deadline.cancel()
        _current.deadline = None


class _Timed(HTTPConnection):
    """Starts the deadline of its thread with each request; connects to checked addresses only."""

    addresses: Callable[[str, int], Sequence[str]]

    def connect(self) -> None:
        self._restart()
        super().connect()

    def request(self, *arguments: Any, **keywords: Any) -> None:
        self._restart()
        super().request(*arguments, **keywords)
        # The connection gives its socket away to a response that ends it.
        self.sent_through = self.sock

    def _new_conn(self) -> socket.socket:
        """A socket to the first address of the host that accepts one."""
        name = self._dns_host
        try:
            addresses = self.addresses(name, self.port or self.default_port)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        try:
            for address in addresses[:-1]:
                self._dns_host = address
                with contextlib.suppress(NewConnectionError, ConnectTimeoutError):
                    return super()._new_conn()
            self._dns_host = addresses[-1]
            return super()._new_conn()
        finally:
            self._dns_host = name

    def _restart(self) -> None:
        current = getattr(_current, "deadline", None)
        if current is not None:
            current.restart(self)


class _TimedTLS(_Timed, HTTPSConnection):
    pass


class TimedAdapter(HTTPAdapter):  # type: ignore[misc]  # requests has no types here
    """An adapter whose requests end at the `deadline` of their thread.

    Args:
        addresses: gives the IP addresses for a host and port; what it raises for a host that is not
            allowed reaches the caller.
        keywords: arguments of `HTTPAdapter`.
    """

    def __init__(self, addresses: Callable[[str, int], Sequence[str]], **keywords: Any) -> None:
        self._addresses = addresses
        super().__init__(**keywords)

    def init_poolmanager(self, *arguments: Any, **keywords: Any) -> None:
        """Use connections that know the deadline and the addresses."""
        super().init_poolmanager(*arguments, **keywords)
        known = {"addresses": staticmethod(self._addresses)}
        plain, encrypted = type("_Plain", (_Timed,), known), type("_TLS", (_TimedTLS,), known)
        self.poolmanager.pool_classes_by_scheme = {
            "http": type("_Pool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
            "https": type("_TLSPool", (HTTPSConnectionPool,), {"ConnectionCls": encrypted}),
        }

    def send(self, request: Any, *arguments: Any, **keywords: Any) -> Any:
        """Send a request; a proxy connects by itself, so the host is checked before."""
        if select_proxy(request.url, keywords.get("proxies")):
            parts = urlsplit(request.url)
            with contextlib.suppress(socket.gaierror):  # perhaps only the proxy knows the name
                self._addresses(parts.hostname or "", parts.port or 0)
        return super().send(request, *arguments, **keywords)
