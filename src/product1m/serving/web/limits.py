"""No request lasts longer or brings more than it may, whatever it sends and how slowly."""

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException
from uvicorn.protocols.http.h11_impl import H11Protocol

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

RETRY_AFTER_S = 2
"""Seconds after which a client may try again while the server is full (ours)."""
MAX_HEADER_BYTES = 16 << 10
"""Largest size of a request line with its headers (ours)."""
_BODY_HEADERS = (b"content-length", b"transfer-encoding")
_DRAINED_BODIES = 4
"""The rest of a refused body is read and dropped, up to this multiple of the largest body, so that
a client that is still sending gets to read why it was refused (ours)."""


class PunctualConnection(H11Protocol):
    """A connection that ends unless the headers of its next request come in time.

    Everything after the headers is up to `RequestLimits`.
    """

    def __init__(self, *arguments: Any, deadline_s: float, **others: Any) -> None:
        super().__init__(*arguments, **others)
        self._deadline_s = deadline_s
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for headers."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(self._deadline_s, self._too_late)

    def data_received(self, data: bytes) -> None:
        """Wait for the rest of the headers, unless they are complete."""
        if self._timer is None and self._is_between_requests():
            self._timer = self.loop.call_later(self._deadline_s, self._too_late)
        super().data_received(data)
        if not self._is_between_requests():
            self._stop_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_timer()
        super().connection_lost(exc)

    def _is_between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _too_late(self) -> None:
        self._timer = None
        if self._is_between_requests() and not self.transport.is_closing():
            self.transport.write(
                b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            )
            self.transport.close()


class RequestLimits:
    """ASGI middleware: ends a request that takes too long, refuses a body that is too large."""

    def __init__(self, app: App, deadline_s: float, max_body_bytes: int) -> None:
        self._app = app
        self._deadline_s = deadline_s
        self._max_bytes = max_body_bytes

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request within the limits."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_body = any(name in _BODY_HEADERS for name, _ in scope["headers"])
        request = _Request(receive, send, self._max_bytes, is_received=not has_body)
        try:
            async with asyncio.timeout(self._deadline_s):
                await self._app(scope, request.receive, request.send)
        except TimeoutError:
            await request.end_late(self._deadline_s)


class _Request:
    """What was received and sent of one request."""

    def __init__(self, receive: Receive, send: Send, max_bytes: int, is_received: bool) -> None:
        self._receive, self._send = receive, send
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._is_received, self._has_answer = is_received, False

    async def receive(self) -> Message:
        """The next part of the body; an HTTPException if it becomes too large."""
        message = await self._receive_any()
        if self._num_bytes > self._max_bytes:
            await self._drain()
            raise HTTPException(413, f"more than {self._max_bytes} bytes; send a smaller photo")
        return message

    async def send(self, message: Message) -> None:
        """Send; a refusal waits until the client has sent its body, which nobody reads any more."""
        if message["type"] == "http.response.start":
            if not self._is_received:
                await self._drain()
            if not self._is_received:
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            self._has_answer = True
        await self._send(message)

    async def end_late(self, deadline_s: float) -> None:
        """Answer that the deadline is over; nothing if an answer has begun."""
        if self._has_answer:
            return
        status, reason = 503, "the server has too much to do; try again later"
        if not self._is_received:
            status, reason = 408, f"the request was not complete after {deadline_s:g} s"
        headers = [
            (b"content-type", b"application/json"),
            (b"connection", b"close"),
            (b"retry-after", str(RETRY_AFTER_S).encode()),
        ]
        body = json.dumps({"error": reason}).encode()
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def _drain(self) -> None:
        while not self._is_received and self._num_bytes <= _DRAINED_BODIES * self._max_bytes:
            await self._receive_any()

    async def _receive_any(self) -> Message:
        message = await self._receive()
        self._num_bytes += len(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            self._is_received = True
        return message
