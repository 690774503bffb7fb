"""A webhook: a message as JSON that Slack and others accept.

The address is a secret and comes from the environment. A message that cannot be delivered causes a
warning and nothing else.
"""

import contextlib
import logging
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


def notify(text: str) -> None:
    """Send a text to the webhook; does nothing if none is named."""
    address = os.environ.get(WEBHOOK, "")
    if not address:
        return
    try:
        answer = requests.post(address, json={"text": redacted(text)}, timeout=TIMEOUT_S)
        answer.raise_for_status()
    except requests.RequestException as error:
        host = urlsplit(address).hostname or "the address"  # the rest of it is a secret
        status = getattr(error.response, "status_code", None)
        reason = f"HTTP {status}" if status else type(error).__name__
        logger.warning("$%s: %s did not take the message: %s", WEBHOOK, host, reason)


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
    """ConfigError if the environment holds no number."""
    text = os.environ.get(STUCK_MINUTES) or DEFAULT_STUCK_MINUTES
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"${STUCK_MINUTES}={text!r}: expected minutes, as in 30") from None
