"""What the doctor found: a line for a person, a row for a program."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["ok", "note", "unknown", "problem"]
"""`note` limits something, `unknown` could not be read, `problem` stops a run."""
_MARKS: dict[Level, str] = {"ok": "ok", "note": "note", "unknown": "?", "problem": "PROBLEM"}


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    subject: str
    level: Level
    seen: str
    needed: str = ""
    advice: str = ""
    """What to do; empty if there is nothing to do."""

    def line(self) -> str:
        """The finding as a line of text."""
        parts = [f"{_MARKS[self.level]:<8} {self.subject}: {self.seen}"]
        if self.needed and self.level != "ok":
            parts.append(f"{'':<8}   needed: {self.needed}")
        if self.advice:
            parts.append(f"{'':<8}   do:     {self.advice}")
        return "\n".join(parts)


def exit_code(findings: Iterable[Finding]) -> int:
    """1 if a run could not work."""
    return int(any(finding.level == "problem" for finding in findings))


def as_rows(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """The findings as rows for JSON."""
    return [asdict(finding) for finding in findings]
