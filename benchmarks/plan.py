"""How well `python -m pipelines plan` foresees finished runs, from the rates of another run.

    PYTHONPATH=. python benchmarks/plan.py build/sample build/other …

The first folder gives the rates, the others are foreseen with their own configuration and lists.
Processor time is compared, because it depends less on what else runs on the machine; `--clock`
compares the steps' own time. Steps that came from the cache count with the time they once took.
"""

import argparse
from pathlib import Path

from pipelines.local.price import Rates, price, read_rates


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rates", type=Path, help="output folder of the run with the rates")
    parser.add_argument("runs", type=Path, nargs="+", help="output folders of finished runs")
    parser.add_argument("--clock", action="store_true", help="compare the time by the clock")
    arguments = parser.parse_args()
    rates = timed(read_rates(arguments.rates), by_clock=arguments.clock)
    for folder in arguments.runs:
        show(folder, rates, timed(read_rates(folder), by_clock=arguments.clock))


def timed(rates: Rates, *, by_clock: bool) -> Rates:
    """The rates with one kind of time, and without the starts of processes."""
    for step in rates.summary.steps.values():
        step.seconds = step.wall_seconds = step.seconds if by_clock else step.cpu_seconds
    return rates


def show(folder: Path, rates: Rates, actual: Rates) -> None:
    steps = actual.summary.steps
    expected = price(actual.config, actual.sizes, rates, set(steps))
    print(f"{folder}: {actual.sizes}")
    print(f"{'task':28}{'planned s':>10}{'actual s':>10}{'ratio':>7}")
    for task in expected.tasks:
        show_row(task.task, task.seconds, steps[task.task].seconds)
    show_row("all", 60 * expected.minutes, sum(step.seconds for step in steps.values()))


def show_row(name: str, planned_s: float, actual_s: float) -> None:
    ratio = f"{planned_s / actual_s:.2f}" if actual_s else ""
    print(f"{name:28}{planned_s:10.1f}{actual_s:10.1f}{ratio:>7}")


if __name__ == "__main__":
    main()
