"""Progress: a bar on a terminal, a log line every few seconds elsewhere.

Of the processes that `torchrun` starts together, only the first one shows it.
"""

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

from product1m.telemetry.logs import wants_json

logger = logging.getLogger(__name__)

T = TypeVar("T")

LOG_INTERVAL_S = 5.0
"""Seconds between two log lines (ours)."""


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` and report progress; give `total` if `items` has no length."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    if os.environ.get("RANK", "0") != "0":
        yield from items
    elif sys.stderr.isatty() and not wants_json():
        yield from tqdm(items, desc=description, total=total, leave=False)
    else:
        yield from _logged(items, description, total)


def _logged(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    started = reported = time.monotonic()
    for count, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - reported >= LOG_INTERVAL_S or count == total:
            reported = now
            rate = count / max(now - started, 1e-9)
            figures = {"done": count, "total": total, "per_second": round(rate, 2)}
            values = (description, count, total or "?", rate)
            logger.info("%s: %d/%s, %.1f/s", *values, extra={"fields": figures})
