"""Runs the cases one after the other and keeps the result of each."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.cluster.conformance.bench import Bench
from pipelines.cluster.conformance.cases import CASES, Case
from product1m.errors import Product1MError


@dataclass(frozen=True)
class Result:
    """A row of the table."""

    case: str
    passed: bool
    seconds: float
    seen: str
    """What was seen, or what is wrong."""

    def line(self) -> str:
        """The result as a line of text."""
        mark = "ok" if self.passed else "FAILED"
        return f"{mark:<7} {self.case:<28} {self.seconds:6.0f} s  {self.seen}"


def run_cases(bench: Bench, cases: Mapping[str, Case] = CASES) -> Iterator[Result]:
    """Each result as it comes; a case that fails does not stop the next."""
    for name, case in cases.items():
        started = time.monotonic()
        try:
            seen, passed = case(bench), True
        except Product1MError as error:
            seen, passed = str(error), False
        yield Result(name, passed, time.monotonic() - started, seen)
        if not passed and name == "whole run":
            return


def as_json(results: list[Result], endpoint: str) -> dict[str, Any]:
    """The results as values for JSON."""
    return {
        "endpoint": endpoint,
        "passed": all(result.passed for result in results) and len(results) == len(CASES),
        "cases": [asdict(result) for result in results],
    }
