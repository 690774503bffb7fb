"""A webhook: a message as JSON that Slack and others accept.

The address is a secret and comes from the environment. A message that cannot be delivered causes a
warning and nothing else.
"""

import contextlib
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import requests

from product1m.errors import ConfigError, redacted

logger = logging.getLogger(__name__)

WEBHOOK = "PRODUCT1M_WEBHOOK"
"""Environment variable with the address."""
STUCK_MINUTES = "PRODUCT1M_STUCK_MINUTES"
"""Environment variable: a local run that prints nothing for longer is reported, once."""
DEFAULT_STUCK_MINUTES = 30.0
TIMEOUT_S = 10.0
DEADLINE_S = 20.0
"""How long a run waits for a message to be taken (ours)."""


def notify(text: str) -> None:
    """Send a text to the webhook; does nothing if none is named."""
    address = os.environ.get(WEBHOOK, "")
    if not address:
        return
    reasons: list[str] = []
    # A server may send a byte now and then, and no time-out of a socket ends that.
    sending = threading.Thread(
        target=lambda: reasons.append(_send(address, text)), name="sending a message", daemon=True
    )
    sending.start()
    sending.join(DEADLINE_S)
    reason = reasons[0] if reasons else f"no answer in {DEADLINE_S:g} s"
    if reason:
        logger.warning("$%s: %s did not take the message: %s", WEBHOOK, _host(address), reason)


def _send(address: str, text: str) -> str:
    """Why an address did not take a message; empty if it did."""
    try:
        with requests.post(
            address,
            json={"text": redacted(text)},
            timeout=TIMEOUT_S,
            allow_redirects=False,  # the message is for this address only
            stream=True,  # the body of the answer is not read
        ) as answer:
            return "" if answer.ok and not answer.is_redirect else f"HTTP {answer.status_code}"
    except (requests.RequestException, ValueError, OSError) as error:  # also for an invalid address
        return type(error).__name__


def _host(address: str) -> str:
    """The part of an address that is no secret."""
    with contextlib.suppress(ValueError):
        return urlsplit(address).hostname or "the address"
    return "the address"


@contextlib.contextmanager
def watched(title: str, last_progress: Callable[[], float]) -> Iterator[None]:
    """Report, once, if nothing is printed for too long within the block.

    Args:
        title: names the run.
        last_progress: when something was printed last, on the monotonic clock.
    """
    if not os.environ.get(WEBHOOK):
        yield
        return
    minutes = _stuck_minutes()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(min(60 * minutes / 4, 60.0)):
            if time.monotonic() - last_progress() > 60 * minutes:
                notify(f":hourglass: {title}: no progress for {minutes:g} minutes, still running")
                return

    threading.Thread(target=watch, name="watching the run", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _stuck_minutes() -> float:
    """ConfigError unless the environment holds a number above 0."""
    text = os.environ.get(STUCK_MINUTES) or DEFAULT_STUCK_MINUTES
    with contextlib.suppress(ValueError):
        if 0 < (minutes := float(text)) < math.inf:
            return minutes
    raise ConfigError(f"${STUCK_MINUTES}={text!r}: expected minutes, as in 30")
