"""Measure how long commands and steps take to start, and how much of it their libraries take.

    python benchmarks/startup.py                    # every command and step, five starts of each
    python benchmarks/startup.py --starts 1 help    # those with `help` in their name, once

A command starts when it prints its help. A step starts when its process, KFP's executor and its
module are loaded, before it reads its first input. Processor time counts, because it depends less
on what else the machine does; the least of all starts is shown, beside what the end of the process
adds, and the time to import the same libraries alone. Tests hold which these may be
(`tests/steps/test_startup.py`).
"""

import argparse
import ast
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from product1m.config import STEPS

HEAVY = (
    "boto3", "cv2", "faiss", "kfp", "kubernetes", "matplotlib", "mlflow", "pandas", "scipy",
    "sklearn", "timm", "torch", "torch._dynamo", "torchvision", "transformers",
)  # fmt: skip
REPORT = """
import resource, sys
used = resource.getrusage(resource.RUSAGE_SELF)
print((used.ru_utime + used.ru_stime, [name for name in {heavy} if name in sys.modules]))
"""
IMPORTS = "import {modules}\n" + REPORT
BRACKET = "\nfrom product1m.telemetry.processes import spare_loaded_objects\nspare_loaded_objects()"
HELP = (
    """
import sys
from {module} import app
try:
    app({words})
except SystemExit:
    pass
"""
    + REPORT
)


@dataclass(frozen=True)
class Start:
    """One thing that starts."""

    name: str
    code: str


def starts() -> list[Start]:
    """Every command and step that is measured."""
    times = [
        Start(f"{name} --help", help_of(module, words))
        for name, module, words in (
            ("product1m", "product1m.cli.app", ()),
            ("product1m search", "product1m.cli.app", ("search",)),
            ("product1m config show", "product1m.cli.app", ("config", "show")),
            ("python -m pipelines", "pipelines.__main__", ()),
            ("python -m pipelines run", "pipelines.__main__", ("run",)),
        )
    ]
    return times + [
        Start(
            f"step {step}",
            IMPORTS.format(modules=f"kfp.dsl.executor_main, product1m.steps.{step}", heavy=HEAVY)
            + BRACKET,  # what a step does first
        )
        for step in STEPS
    ]


def help_of(module: str, words: tuple[str, ...]) -> str:
    """Code that prints the help of a command, then the libraries."""
    return HELP.format(module=module, words=[*words, "--help"], heavy=HEAVY)


@dataclass(frozen=True)
class Run:
    """One process: its processor seconds, and what it imported."""

    start_s: float
    end_s: float
    libraries: list[str]


def measure(code: str) -> Run:
    """Run `code` in a process of its own."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = subprocess.run(
        [sys.executable, "-c", code],
        env={"_KFP_RUNTIME": "true", "OMP_NUM_THREADS": "1"},  # as a step's process has it
        check=True,
        capture_output=True,
        text=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    start_s, libraries = ast.literal_eval(out.stdout.splitlines()[-1])
    return Run(start_s, seconds - start_s, list(libraries))


def libraries_alone(names: Sequence[str]) -> float:
    """Processor seconds to import only these libraries; torchvision without the compiler."""
    modules = sorted({*names} - {"kfp"})
    if "torchvision" in modules:
        modules = [*({*modules} - {"torchvision"}), "product1m.detection.libraries"]
    if not modules:
        return 0.0
    return measure(IMPORTS.format(modules=", ".join(modules), heavy=HEAVY)).start_s


def main() -> None:
    """Print a line for every start."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="part of the names to measure; default: all")
    parser.add_argument("--starts", type=int, default=5, help="starts of each")
    arguments = parser.parse_args()
    print(f"{'':36} {'start s':>7} {'end s':>6} {'libraries alone':>16}  libraries")
    for start in starts():
        if arguments.names and not any(part in start.name for part in arguments.names):
            continue
        runs = [measure(start.code) for _ in range(arguments.starts)]
        libraries = runs[0].libraries
        alone = min(libraries_alone(libraries) for _ in range(arguments.starts))
        start_s, end_s = min(run.start_s for run in runs), min(run.end_s for run in runs)
        names = ", ".join(libraries) or "-"
        print(f"{start.name:36} {start_s:7.2f} {end_s:6.2f} {alone:16.2f}  {names}")


if __name__ == "__main__":
    main()
