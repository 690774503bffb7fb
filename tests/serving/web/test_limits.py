"""Limits of time and size of a request, at a real socket."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from product1m.serving.web.limits import (
    App,
    Message,
    PunctualConnection,
    Receive,
    RequestLimits,
    Send,
)
from product1m.serving.web.workers import QueueFullError, WorkerThreads
from tests.support.servers.asgi_server import listening

MAX_BYTES = 100_000


async def echo(scope: Message, receive: Receive, send: Send) -> None:
    """Answers the number of bytes of a body; `/slow` never answers, `/deaf` reads no body."""
    if scope["path"] == "/slow":
        await asyncio.sleep(3600)
    body = b"" if scope["path"] == "/deaf" else await Request(scope, receive).body()
    await PlainTextResponse(str(len(body)))(scope, receive, send)


@contextmanager
def limited(app: App, deadline_s: float) -> Iterator[int]:
    """Serve an app behind the limits; the port."""
    connection = partial(PunctualConnection, deadline_s=deadline_s)
    with listening(RequestLimits(app, deadline_s, MAX_BYTES), http=connection) as port:
        yield port


@pytest.fixture(scope="module")
def impatient() -> Iterator[int]:
    """Port of a server whose requests end after half a second."""
    with limited(echo, deadline_s=0.5) as port:
        yield port


@pytest.fixture(scope="module")
def patient() -> Iterator[int]:
    """Port of a server whose requests may take long."""
    with limited(echo, deadline_s=300) as port:
        yield port


def answer(port: int, *sent: bytes, dripped: bytes = b"") -> bytes:
    """Send, then a byte at a time for as long as the server listens; what it answered."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        try:
            for data in sent:
                connection.sendall(data)
            for number in range(len(dripped)):
                connection.sendall(dripped[number : number + 1])
                time.sleep(0.02)
        except ConnectionError:
            assert dripped
        received = b""
        try:
            while data := connection.recv(65536):
                received += data
        except ConnectionResetError:
            assert dripped
        return received


def test_headers_that_drip_in_end_at_the_deadline(impatient: int) -> None:
    dripped = b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 10_000
    assert b" 408 " in answer(impatient, dripped=dripped[:3000]).splitlines()[0]
    assert b" 408 " in answer(impatient).splitlines()[0]


def test_a_body_that_drips_in_ends_at_the_deadline(impatient: int) -> None:
    head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 90000\r\n\r\n"
    received = answer(impatient, head)
    assert received.startswith(b"HTTP/1.1 408")
    assert b"not complete after 0.5 s" in received


def test_a_body_that_nobody_reads_ends_at_the_deadline_too(impatient: int) -> None:
    head = b"POST /deaf HTTP/1.1\r\nhost: x\r\ncontent-length: 90000\r\n\r\n"
    assert answer(impatient, head).startswith(b"HTTP/1.1 408")


def test_an_answer_that_takes_too_long_is_an_error_to_try_again(impatient: int) -> None:
    received = answer(impatient, b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 503")
    assert b"retry-after: 2" in received


def test_a_body_within_the_limit_is_answered(patient: int) -> None:
    head = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
    body = b"x" * MAX_BYTES
    assert answer(patient, head % MAX_BYTES + body).endswith(str(MAX_BYTES).encode())


def test_a_refused_body_is_read_so_that_the_reason_arrives(patient: int) -> None:
    head = b"POST %s HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
    large = b"x" * (3 * MAX_BYTES)
    unread = answer(patient, head % (b"/deaf", len(large)) + large)
    assert unread.startswith(b"HTTP/1.1 200")


def test_a_queue_that_is_full_refuses_and_counts() -> None:
    async def scenario() -> None:
        workers = WorkerThreads(num_workers=1, max_waiting=1)
        begun, go_on = threading.Event(), threading.Event()

        def work() -> str:
            begun.set()
            go_on.wait()
            return "done"

        first = asyncio.create_task(workers.run(work))
        await asyncio.to_thread(begun.wait)
        second = asyncio.create_task(workers.run(lambda: "second"))
        await asyncio.sleep(0)
        assert (workers.num_waiting, workers.is_full) == (1, True)
        with pytest.raises(QueueFullError, match="1 photos wait already; try again"):
            await workers.run(work)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        assert not workers.is_full
        go_on.set()
        assert await first == "done"
        workers.close()
        assert workers.num_waiting == 0

    asyncio.run(scenario())
