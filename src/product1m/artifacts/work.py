"""Work folders: what a step keeps between its attempts, such as checkpoints.

There is one for each combination of step, inputs and section, so another configuration cannot
pick it up. It stays when a step fails or is killed, and is removed when its artifact is whole.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from product1m.artifacts.atomic import finish_removals, remove_folder
from product1m.artifacts.folder import Artifact
from product1m.config import StepConfig
from product1m.errors import LockedError
from product1m.storage.locks import only_writer

WORK = "PRODUCT1M_WORK"
"""Environment variable: folder for all work folders."""


def work_root(folder: Path) -> Path:
    """Attempts at an artifact keep their files below this folder, by default next to it."""
    return Path(os.environ.get(WORK) or folder.parent / ".work").expanduser()


def work_folder(
    folder: Path, step: str, config: StepConfig, inputs: Mapping[str, Artifact]
) -> Path:
    """The work folder of a step that writes its artifact to `folder`, created if missing.

    It is below `work_root`, because a pipeline gives every attempt a new output folder.
    """
    work = _path(folder, step, config, inputs)
    work.mkdir(parents=True, exist_ok=True)
    return work


@contextmanager
def locked_work_folder(
    folder: Path, step: str, config: StepConfig, inputs: Mapping[str, Artifact]
) -> Iterator[Path]:
    """The work folder, which this process alone uses within the block.

    Raises LockedError if another run with the same inputs and section is using it.
    """
    work = _path(folder, step, config, inputs)
    with only_writer(work):
        finish_removals(work.parent)
        work.mkdir(exist_ok=True)
        yield work


def remove_work_folder(work: Path) -> None:
    """Remove a work folder, unless another run has begun to use it."""
    with contextlib.suppress(LockedError), only_writer(work):
        remove_folder(work)
    if not os.environ.get(WORK):
        with contextlib.suppress(OSError):  # others are in it
            work.parent.rmdir()


def _path(folder: Path, step: str, config: StepConfig, inputs: Mapping[str, Artifact]) -> Path:
    identity = json.dumps(
        [step, config.model_dump(mode="json"), {k: a.digest for k, a in inputs.items()}]
    )
    return work_root(folder) / f"{step}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
