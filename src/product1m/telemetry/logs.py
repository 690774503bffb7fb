"""Logs: text for people, or one JSON object per line for machines.

Text on a terminal, JSON elsewhere; `PRODUCT1M_LOG=text` or `json` overrides this. A JSON line
contains `time`, `level`, `logger` and `message`, within a step also `step`, `part` and
`pipeline_run`, and the figures of the message as numbers.
"""

import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from product1m.errors import ConfigError, printable, redacted
from product1m.telemetry.provenance import pipeline_run

VARIABLE = "PRODUCT1M_LOG"
_context: ContextVar[dict[str, str] | None] = ContextVar("context", default=None)

logger = logging.getLogger(__name__)


class WithoutSecrets(logging.Filter):
    """Removes passwords and signatures from a record's message and traceback.

    What would move the cursor of a terminal is escaped.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Always True: every record is logged."""
        record.msg, record.args = printable(redacted(record.getMessage())), None
        if record.exc_info and not record.exc_text:
            record.exc_text = redacted(logging.Formatter().formatException(record.exc_info))
        return True


class JsonLines(logging.Formatter):
    """Formats a record as a JSON object; `extra={"fields": {…}}` adds fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **(_context.get() or {}),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = record.exc_text or self.formatException(record.exc_info)
        return redacted(json.dumps(line, ensure_ascii=False, default=str))


def wants_json() -> bool:
    """Whether to log JSON; ConfigError if `PRODUCT1M_LOG` is neither text nor json."""
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return not sys.stderr.isatty()
    if wanted not in ("text", "json"):
        raise ConfigError(f"{VARIABLE}: expected text or json, got {wanted!r}")
    return wanted == "json"


def set_up_logging(*names: str) -> None:
    """Log JSON or text, in color on a terminal.

    Logs everything from the loggers `names`, only warnings from other loggers.
    """
    if wants_json():
        handler: logging.Handler = logging.StreamHandler()
        handler.setFormatter(JsonLines())
        logging.basicConfig(handlers=[handler])
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.logging import RichHandler

        handler = RichHandler(console=Console(stderr=True), show_path=False)
        logging.basicConfig(format="%(message)s", datefmt="%X", handlers=[handler])
    else:
        logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", datefmt="%X")
    for name in names:
        logging.getLogger(name).setLevel(logging.INFO)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    hide_secrets()


def hide_secrets() -> None:
    """From now on neither logs nor the traceback that ends the process contain secrets."""
    for handler in logging.getLogger().handlers:
        if not any(isinstance(old, WithoutSecrets) for old in handler.filters):
            handler.addFilter(WithoutSecrets())
    sys.excepthook = _print_without_secrets


def _print_without_secrets(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    lines = traceback.format_exception(kind, error, trace)
    sys.stderr.write(redacted("".join(lines)))


@contextmanager
def step_logs(step: str, part: str) -> Iterator[None]:
    """Within the block JSON lines contain the step; an error becomes one line with its traceback.

    KFP's executor sets its own log format before a step starts; it is replaced here.
    """
    hide_secrets()
    if not wants_json():
        yield
        return
    for handler in logging.getLogger().handlers:
        handler.setFormatter(JsonLines())
    names = {"step": step, "part": part, "pipeline_run": pipeline_run()}
    before = _context.set({name: value for name, value in names.items() if value})
    try:
        yield
    except BaseException as error:
        logger.exception("%s failed: %s", step, error)
        raise
    finally:
        _context.reset(before)
