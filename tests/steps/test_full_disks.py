"""Every step on disks that are full, read-only or forbidden: a sentence with the folder and space.

A long campaign; `make faults` runs it and prints the figures.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from product1m.steps import (
    background_synthesis,
    capture_pretraining,
    feature_extraction,
    indexing,
    ingestion,
    rpn_training,
)
from tests.support.worlds import tiny_chain
from tests.support.worlds.small_disk import outcome, small_disk
from tests.support.worlds.tiny_world import TinyArtifacts

CONFIG = tiny_chain.CONFIG
SHARES = (0.05, 0.3, 0.6, 0.9)
"""Of the space that a step needs."""
NOBODY = 65534


def steps(made: TinyArtifacts) -> dict[str, Callable[[Path], object]]:
    """Step to a function that writes its artifacts below a folder."""
    root, sections = made.root, CONFIG
    return {
        "ingestion": lambda out: ingestion.run(
            str(root / "dataset"), out / "train", out / "gallery", out / "queries",
            sections.ingestion,
        ),
        "background_synthesis": lambda out: background_synthesis.run(
            made.train, "", out / "scenes", sections.background_synthesis
        ),
        "rpn_training": lambda out: rpn_training.run(
            made.scenes, out / "rpn", sections.rpn_training
        ),
        "feature_extraction": lambda out: feature_extraction.run(
            made.train, made.rpn, out / "features", sections.feature_extraction
        ),
        "capture_pretraining": lambda out: capture_pretraining.run(
            made.train_features, made.scenes_features, out / "capture",
            sections.capture_pretraining,
        ),
        "indexing": lambda out: indexing.run(
            made.gallery_features, made.capture, out / "index", sections.indexing
        ),
        "evaluation": lambda out: tiny_chain.evaluate(made, out / "evaluation"),
    }  # fmt: skip


@contextmanager
def forbidden(folder: Path) -> Iterator[Path]:
    """A folder of another user; root becomes nobody within the block."""
    folder.mkdir(mode=0o755)
    if os.getuid() == 0:
        os.seteuid(NOBODY)
    else:
        folder.chmod(0o500)
    try:
        yield folder
    finally:
        os.seteuid(os.getuid())


def needed_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
def test_every_step_on_every_disk(
    made: TinyArtifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for folder in (tmp_path, *tmp_path.parents[:2], made.root, *made.root.parents[:1]):
        folder.chmod(0o755)
    outcomes: dict[str, str] = {}
    for step, write in steps(made).items():
        write(tmp_path / step)
        size = needed_bytes(tmp_path / step)
        for share in SHARES:
            with small_disk(tmp_path / "disk", int(size * share)) as disk:
                outcomes[f"{step}, {share:g} of {size} bytes"] = outcome(write, disk)
        with small_disk(tmp_path / "disk", size * 4, read_only=True) as disk:
            outcomes[f"{step}, read-only"] = outcome(write, disk)
        shutil.rmtree(tmp_path / "disk")
        with forbidden(tmp_path / "disk") as disk:
            outcomes[f"{step}, no permission"] = outcome(write, disk)
        shutil.rmtree(tmp_path / "disk")
        shutil.rmtree(tmp_path / step)
    failures = {name: how for name, how in outcomes.items() if how not in ("clear", "finished")}
    clear = sum(how == "clear" for how in outcomes.values())
    figures = {"attempts": len(outcomes), "clear": clear, "failures": failures}
    sys.stdout.write(f"{json.dumps(figures, indent=1)}\n")
    assert failures == {}
    assert clear >= len(outcomes) * 0.6, "most disks are too small"
