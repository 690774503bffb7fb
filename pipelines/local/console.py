"""Terminal output of a local run: when each step starts and ends, its log lines, why it failed.

kfp.local logs to the root logger and prints the output of its subprocess indented. Its log records
become the events below. Lines of a step are shown without the executor's own messages. A log file
keeps everything.
"""

import contextlib
import io
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from rich.console import Console

_ANSI = re.compile(r"\033\[\d+m")
STARTED = re.compile(r"Executing task '([^']+)'")
FINISHED = re.compile(r"Task '([^']+)' finished with status (\w+)")
CACHED = re.compile(r"Task (\S+) cache hit")
EXECUTOR_LINE = re.compile(r"\[KFP Executor \S+ ([\d:]+),\d+ (\w+)\]: (.*)")
EXECUTOR_NOISE = (
    "Looking for component ",
    "Loading KFP component ",
    "Got executor_input:",
    "Wrote executor output file",
    "Loading faiss",
    "Could not load library with AVX",
    "Successfully loaded faiss",
)
"""First words of messages that the KFP executor and faiss print in every step."""
PACE_AFTER_S = 30.0
"""Expected seconds of finished steps after which this run's own pace counts (ours)."""
_OWN_ERRORS = "product1m.errors."
_RAISED = re.compile(r"([A-Za-z_][\w.]*)(?:: (.*))?$")


@dataclass
class StepTime:
    """When a step started, how long it took, and whether its result came from the cache."""

    started: float = 0.0
    seconds: float = 0.0
    cached: bool = False


class Transcript(io.TextIOBase):
    """Receives everything that a local run prints, line by line.

    Args:
        console: Shows the lines.
        log: Keeps every line.
        names: Task name in the graph to the name shown.
        root: Folder of the run; shown paths are relative to it.
        find_failure: Returns why the step that kfp.local reports as finished failed; empty if it
            succeeded.
        expected_s: Shown name to the seconds that the step should take; empty if unknown.
    """

    def __init__(
        self,
        console: Console,
        log: TextIO,
        names: Mapping[str, str],
        root: Path,
        find_failure: Callable[[], str] = str,
        expected_s: Mapping[str, float] | None = None,
    ) -> None:
        self.steps: dict[str, StepTime] = {}
        self.failed_step = ""
        self.error = ""
        """Error message of the failed step, without the traceback's frames; else its last line."""
        self._console = console
        self._log = log
        self._names = names
        self._root = f"{root}/"
        self._find_failure = find_failure
        self._expected_s = dict(expected_s or {})
        self._pending = ""
        self._in_noise = False
        self._last = ""
        self.last_progress = time.monotonic()
        """When something was printed last, on the monotonic clock."""
        self._traceback: list[str] = []
        self._error: list[str] = []

    def write(self, text: str) -> int:
        """Receive printed text; complete lines are shown."""
        *lines, self._pending = (self._pending + text).split("\n")
        for line in lines:
            self._line(line.removeprefix("    "))
        return len(text)

    def filter(self, record: logging.LogRecord) -> bool:
        """Turn the log records of kfp.local into events."""
        message = _ANSI.sub("", record.getMessage())
        reason = self._find_failure() if FINISHED.match(message) else ""
        if reason:
            message = message.replace("SUCCESS", "FAILURE")
        self._log.write(f"{message}\n")
        if match := STARTED.match(message):
            self._start(self._names.get(match[1], match[1]))
        elif match := CACHED.match(message):
            self._from_cache(self._names.get(match[1], match[1]))
        elif match := FINISHED.match(message):
            step, succeeded = self._names.get(match[1], match[1]), match[2] == "SUCCESS"
            self._finish(step, reason, succeeded=succeeded)
            if reason:  # stops kfp.local before it runs the next step or caches this result
                raise RuntimeError(f"{step}: {reason}")
        return False

    def _start(self, step: str) -> None:
        self.steps[step] = StepTime(started=time.monotonic())
        self._traceback, self._error = [], []
        place = f"step {len(self.steps)} of {len(self._names)}"
        self._show(f"[bold]{step}[/bold] starts, {place}{self._time_left(step)}")

    def _time_left(self, current: str) -> str:
        """How long the rest of the run takes at the pace so far; empty if nothing is known."""
        if not self._expected_s:
            return ""
        done = [name for name, time in self.steps.items() if name != current and not time.cached]
        expected_s = sum(self._expected_s.get(name, 0.0) for name in done)
        taken_s = sum(self.steps[name].seconds for name in done if name in self._expected_s)
        pace = taken_s / expected_s if expected_s > PACE_AFTER_S else 1.0
        ahead = [name for name in self._expected_s if name == current or name not in self.steps]
        left_s = pace * sum(self._expected_s[name] for name in ahead)
        return f", about {left_s / 60:.0f} min left" if left_s >= 60 else ", less than 1 min left"

    def _from_cache(self, step: str) -> None:
        self.steps[step] = StepTime(cached=True)
        self._show(f"[bold]{step}[/bold] [cyan]unchanged, taken from the cache[/cyan]")

    def _finish(self, step: str, reason: str, *, succeeded: bool) -> None:
        timing = self.steps[step]
        timing.seconds = round(time.monotonic() - timing.started, 2)
        if succeeded:
            self._show(f"[bold]{step}[/bold] [green]done[/green] in {timing.seconds:.1f} s")
        else:
            self.failed_step = step
            self.error = "\n".join(self._error).strip()
            if not self._traceback:
                reason = reason or "it ended without an error message"
                self.error = f"{reason}; its last line: {self._last}"
            if not self.error.startswith(_OWN_ERRORS):
                self._echo_traceback()
            self._show(f"[bold]{step}[/bold] [red]failed[/red] after {timing.seconds:.1f} s")

    def _line(self, line: str) -> None:
        self.last_progress = time.monotonic()
        self._log.write(f"{line}\n")
        self._log.flush()
        self._last = line.strip(" -") or self._last
        if match := EXECUTOR_LINE.match(line):
            self._echo_traceback()
            clock, level, message = match.groups()
            self._in_noise = message.startswith(EXECUTOR_NOISE)
            if not self._in_noise:
                mark = "" if level == "INFO" else f"{level} "
                self._echo(f"{clock}   {mark}{message}")
        elif line.startswith("Traceback (most recent call last)"):
            self._in_noise, self._traceback, self._error = False, [line], []
        elif self._traceback:
            self._traceback_line(line)
        elif not self._in_noise and line.strip(" -"):
            self._echo(f"           {line}")

    def _traceback_line(self, line: str) -> None:
        if self._error or (not line.startswith(" ") and _RAISED.match(line)):
            self._error.append(line)
        self._traceback.append(line)

    def _echo_traceback(self) -> None:
        for line in self._traceback:
            self._echo(line)
        self._traceback, self._error = [], []

    def _show(self, text: str) -> None:
        self._console.print(f"{time.strftime('%H:%M:%S')} {text}", soft_wrap=True, highlight=False)

    def _echo(self, text: str) -> None:
        text = text.replace(self._root, "")
        self._console.print(text, soft_wrap=True, highlight=False, markup=False, style="dim")

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Receive stdout and the root logger's records within the block."""
        root = logging.getLogger()
        level = root.level
        root.addFilter(self)
        root.setLevel(logging.INFO)
        try:
            with contextlib.redirect_stdout(self):
                yield
        finally:
            root.removeFilter(self)
            root.setLevel(level)


@contextlib.contextmanager
def transcript(
    log: Path,
    names: Mapping[str, str],
    find_failure: Callable[[], str] = str,
    expected_s: Mapping[str, float] | None = None,
) -> Iterator[Transcript]:
    """Show a local run within the block and keep its whole output in `log`."""
    with log.open("w", encoding="utf-8") as file:
        console = Console(file=sys.stdout)
        lines = Transcript(console, file, names, log.parent, find_failure, expected_s)
        with lines.listening():
            yield lines
