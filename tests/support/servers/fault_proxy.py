"""An HTTP proxy that injects faults of networks and servers into requests and responses."""

import http.client
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, get_args

Fault = Literal[
    "reset", "error", "slow_down", "truncate", "stall", "trickle", "corrupt", "corrupt_upload",
    "lose_answer", "page", "too_long", "too_short",
]  # fmt: skip
EVERY_FAULT: tuple[Fault, ...] = get_args(Fault)
"""`stall` and `trickle` are slow; `too_long` and `too_short` state a wrong length."""
STALL_S = 3.0
"""How long a stalled response sends nothing before it ends."""
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect"}
_WRONG_LENGTH: dict[Fault | None, int] = {"too_long": 1, "too_short": -1}
_ANSWERS = {"error": (500, "InternalError"), "slow_down": (503, "SlowDown")}


@dataclass
class FaultProxy:
    """Forwards to a server on this machine; injects faults into the next requests of a method."""

    upstream_port: int
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of every received request."""
    _faults: list[tuple[str, Fault]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    port: int = 0
    _random: tuple[random.Random, float, tuple[Fault, ...]] | None = None

    def inject_always(self, share: float, faults: tuple[Fault, ...], seed: int) -> None:
        """From now on this share of all requests, of any method, has one of the faults."""
        self._random = random.Random(seed), share, faults

    def inject(self, fault: Fault, times: int = 1, method: str = "GET") -> None:
        """Inject a fault into the next `times` requests of a method."""
        with self._lock:
            self._faults += [(method, fault)] * times

    def count(self, method: str) -> int:
        """Requests of a method so far."""
        return sum(seen == method for seen, _ in self.requests)

    def wrong_by(self, fault: Fault | None) -> int:
        """Bytes that a stated length is off: 13, or any number if faults are random."""
        far = self._random[0].randrange(1, 1000) if self._random else 13
        return _WRONG_LENGTH.get(fault, 0) * far

    def flipped(self, content: bytes) -> bytes:
        """The content with one bit changed: in the middle, or anywhere if faults are random."""
        if not content:
            return content
        place, bit = len(content) // 2, 1
        if self._random:
            place, bit = self._random[0].randrange(len(content)), 1 << self._random[0].randrange(8)
        return content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]

    def next_fault(self, method: str, path: str) -> Fault | None:
        """Record a request; return the fault to inject."""
        with self._lock:
            self.requests.append((method, path))
            for place, (wanted, fault) in enumerate(self._faults):
                if wanted == method:
                    del self._faults[place]
                    return fault
            if self._random and self._random[0].random() < self._random[1]:
                return self._random[0].choice(self._random[2])
        return None


@contextmanager
def running_proxy(upstream_port: int) -> Iterator[FaultProxy]:
    """Serve on a free port within the block."""
    proxy = FaultProxy(upstream_port)
    handler = type("Handler", (_Handler,), {"proxy": proxy})
    with _Server(("127.0.0.1", 0), handler) as server:
        proxy.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield proxy
        server.shutdown()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore broken connections; the proxy makes them on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultProxy

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.proxy.next_fault(self.command, self.path)
        if fault == "reset":
            self._reset()
            return
        if fault in ("error", "slow_down"):
            self._refuse(*_ANSWERS[fault])
            return
        if fault == "corrupt_upload":
            body = self.proxy.flipped(body)
        answer, content = self._forward(body)
        if fault == "lose_answer":
            self._reset()
            return
        if fault == "page":
            self._answer(200, b"<html><body>Please log in<br></body></html>", "text/html")
            return
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() == "content-length":
                length = max(0, int(value) + self.proxy.wrong_by(fault))
                self.send_header(name, str(length))
            elif name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self._send(content, fault)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _handle  # noqa: N815

    def _forward(self, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.proxy.upstream_port, timeout=60)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP_BY_HOP}
        connection.request(self.command, self.path, body or None, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer, content

    def _send(self, content: bytes, fault: Fault | None) -> None:
        half = content[: len(content) // 2]
        if fault == "truncate":
            self._send_and_end(half)
        elif fault == "stall":
            self.wfile.write(half)
            time.sleep(STALL_S)
            self._send_and_end(b"")
        elif fault in _WRONG_LENGTH:
            self._send_and_end(content)
        elif fault == "trickle":
            step = max(1, len(content) // 10)
            for start in range(0, len(content), step):
                self.wfile.write(content[start : start + step])
                time.sleep(0.02)
        else:
            self.wfile.write(self.proxy.flipped(content) if fault == "corrupt" else content)

    def _send_and_end(self, content: bytes) -> None:
        self.wfile.write(content)
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _refuse(self, status: int, code: str) -> None:
        content = f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
        self._answer(status, content, "application/xml")

    def _answer(self, status: int, content: bytes, kind: str) -> None:
        self.send_response_only(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _reset(self) -> None:
        """Break the connection as a crashed server does: RST instead of FIN."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()
