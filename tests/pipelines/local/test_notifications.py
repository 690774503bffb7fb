"""Messages to a webhook: a real receiver takes what Slack would take."""

import json
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from pipelines.local import webhook
from pipelines.local.notifications import notify_end
from pipelines.local.story import Story
from pipelines.local.webhook import notify, watched
from product1m.errors import ConfigError

STARTED = datetime(2026, 11, 27, 3, tzinfo=UTC)


class Receiver(HTTPServer):
    """Keeps the bodies that it gets and answers with `status`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[dict[str, str]] = []
        self.status = 200
        self.location = ""
        self.arrived = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        assert self.headers["Content-Type"] == "application/json"
        self.server.bodies.append(json.loads(self.rfile.read(length)))
        self.send_response(self.server.status)
        if self.server.location:
            self.send_header("Location", self.server.location)
        self.end_headers()
        self.server.arrived.set()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}/services/T0/B0/secret"
        monkeypatch.setenv("PRODUCT1M_WEBHOOK", address)
        yield server
        server.shutdown()
        thread.join()


def test_a_failure_is_reported_with_its_cause_and_the_next_command(receiver: Receiver) -> None:
    ended = STARTED + timedelta(minutes=12)
    story = Story("/runs/mine", "FAILED", [], STARTED, ended, "indexing", ["Error: disk full"])
    story.advice = "`python -m pipelines runs resume /runs/mine` continues"
    notify_end(story)
    (body,) = receiver.bodies
    assert body == {
        "text": ":x: /runs/mine: FAILED in indexing after 12 min\nError: disk full\n"
        "Next: `python -m pipelines runs resume /runs/mine` continues"
    }


def test_a_candidate_is_reported_as_waiting_for_review(receiver: Receiver) -> None:
    story = Story("weekly", "SUCCEEDED", [], results={"model": "product1m-candidate version 3"})
    story.links = {"model page": "http://mlflow/#/models/product1m-candidate/versions/3"}
    notify_end(story)
    (body,) = receiver.bodies
    assert body["text"].splitlines() == [
        ":white_check_mark: weekly: SUCCEEDED",
        "model: product1m-candidate version 3",
        "The candidate waits for review.",
        "model page: http://mlflow/#/models/product1m-candidate/versions/3",
    ]


def test_a_run_that_prints_nothing_is_reported_once(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRODUCT1M_STUCK_MINUTES", "0.001")
    with watched("the run in build/mine", lambda: 0.0):
        assert receiver.arrived.wait(30)
    (body,) = receiver.bodies
    assert body["text"].startswith(":hourglass: the run in build/mine: no progress for 0.001 min")


def test_a_receiver_that_refuses_costs_a_warning_without_the_secret(
    receiver: Receiver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.status = 404
    notify("hello")
    assert "127.0.0.1 did not take the message: HTTP 404" in caplog.text
    monkeypatch.setenv("PRODUCT1M_WEBHOOK", "http://127.0.0.1:9/services/secret")
    notify("hello")
    assert "ConnectionError" in caplog.text
    assert "secret" not in caplog.text
    monkeypatch.delenv("PRODUCT1M_WEBHOOK")
    notify("hello")
    assert len(receiver.bodies) == 1


@pytest.mark.parametrize(
    "address",
    [
        "http://[bad/secret",
        f"http://{'a' * 70}.invalid/secret",
        "http://a b/secret",
        "http://127.0.0.1:99999/secret",
        "file:///secret",
        "hooks.example/secret",
        "http://127.0.0.1:1/secret",
        "http://\udcff/secret",
    ],
)
def test_an_address_that_cannot_be_sent_to_costs_a_warning_without_the_secret(
    address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PRODUCT1M_WEBHOOK", address)
    notify("done")
    (message,) = caplog.messages
    assert message.startswith("$PRODUCT1M_WEBHOOK: ")
    assert "did not take the message" in message
    assert "secret" not in message


def test_a_message_is_not_sent_on_to_another_address(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.status, receiver.location = 307, f"http://127.0.0.1:{receiver.server_port}/other"
    notify("done")
    assert receiver.bodies == [{"text": "done"}]
    assert "did not take the message: HTTP 307" in caplog.text


def test_a_receiver_that_never_answers_holds_no_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(webhook, "DEADLINE_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        monkeypatch.setenv("PRODUCT1M_WEBHOOK", address)
        notify("done")
    assert "did not take the message: no answer in 0.1 s" in caplog.text


@pytest.mark.parametrize("minutes", ["soon", "nan", "inf", "0", "-5"])
def test_minutes_that_are_none_are_a_mistake_in_the_configuration(
    minutes: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRODUCT1M_STUCK_MINUTES", minutes)
    with pytest.raises(ConfigError, match="expected minutes, as in 30"), watched("run", lambda: 0):
        pass
