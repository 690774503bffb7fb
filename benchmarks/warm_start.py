"""What a warm start costs and reaches: `python benchmarks/warm_start.py build/sample-data build/w`.

Three runs of the preset `sample`: an earlier one on nine of ten train and gallery items, then all
items from scratch, and all items starting from the earlier run's weights (`--from`). Compared are
the processor time of both trainings and strict mAP@10 with its interval. The whole sample takes an
hour on two cores; `--classes 12 --scenes 120` is a smaller one of some 12 minutes.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from product1m.evaluation.methods import SHIPPED
from product1m.evaluation.statistics import Interval
from product1m.sample import cut_sample

TRAININGS = ("rpn_training", "capture_pretraining")
NEW_SHARE = 0.1


def without_new_items(dataset: Path, folder: Path) -> Path:
    """The data set as it was before a tenth of its train and gallery items came."""
    shutil.copytree(dataset, folder)
    generator = random.Random(0)
    for role in ("train", "gallery"):
        path = folder / f"product1m_{role}_ossurl_v2.txt"
        lines = path.read_text("utf-8").splitlines(keepends=True)
        kept = generator.sample(range(len(lines)), round(len(lines) * (1 - NEW_SHARE)))
        path.write_text("".join(lines[number] for number in sorted(kept)), "utf-8")
    return folder


def run(dataset: Path, output: Path, options: list[str]) -> dict[str, Any]:
    """One run of the pipeline; its figures."""
    command = [sys.executable, "-m", "pipelines", "run", "--preset", "sample"]
    command += ["--dataset", str(dataset), "--output", str(output), *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    summary: dict[str, Any] = json.loads((output / "summary.json").read_text("utf-8"))
    return summary


def seconds_of(summary: dict[str, Any]) -> dict[str, float]:
    """Processor time of the trainings."""
    return {step: summary["steps"][step]["cpu_seconds"] for step in TRAININGS}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path, help="Data set that `make sample` wrote.")
    parser.add_argument("folder", type=Path, help="Folder to work in; new or of a killed start.")
    parser.add_argument("--classes", type=int, default=0, help="Cut the sample to this size.")
    parser.add_argument("--scenes", type=int, default=0, help="Number of scenes instead of 720.")
    arguments = parser.parse_args()
    dataset, folder = arguments.dataset.absolute(), arguments.folder.absolute()
    options = []
    if arguments.scenes:
        options = ["--set", f"background_synthesis.num_scenes={arguments.scenes}"]
    if arguments.classes:
        if not (folder / "cut").exists():
            cut_sample(dataset, folder / "cut", arguments.classes, 0)
        dataset = folder / "cut"
    before = folder / "before"
    if not before.exists():
        without_new_items(dataset, before)
    run(before, folder / "earlier", options)
    cold = run(dataset, folder / "cold", options)
    warm = run(dataset, folder / "warm", [*options, "--from", str(folder / "earlier")])
    for name, made in (("cold", cold), ("warm", warm)):
        reached = Interval(**made["intervals"][SHIPPED])
        times = ", ".join(f"{step} {spent:.0f} s" for step, spent in seconds_of(made).items())
        print(f"{name}: strict mAP@10 {reached}; processor time of {times}")
    share = sum(seconds_of(warm).values()) / sum(seconds_of(cold).values())
    inside = warm["intervals"][SHIPPED]["mean"] >= cold["intervals"][SHIPPED]["low"]
    print(f"warm takes {share:.2f} of the time; within the cold run's interval or above: {inside}")


if __name__ == "__main__":
    main()
