"""The volume that a step's pod and its training nodes share, `$PRODUCT1M_WORK`.

`train-jobs/<job>/` holds a job's inputs and its unfinished artifact until the job has ended. Beside
it lie the checkpoints, `<step>-<digest>/`: they stay after a failure, so that the step continues
from them when it is run again, until the artifact is complete or they are `MAX_AGE_DAYS` old.
"""

import logging
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from product1m.artifacts.atomic import whole_folder
from product1m.artifacts.folder import Artifact, open_artifact
from product1m.artifacts.manifest import MANIFEST, parse_manifest
from product1m.artifacts.work import WORK
from product1m.config import STEPS
from product1m.errors import ArtifactError, ConfigError, TrainingError
from product1m.jobs.kubernetes_api import OwnPod

logger = logging.getLogger(__name__)

JOBS = "train-jobs"
MAX_AGE_DAYS = 14
"""Age at which checkpoints that nobody continues from are removed (ours)."""
MAX_JOB_AGE_DAYS = 1
"""Age at which the files of a job that no longer exists are removed (ours)."""
_CHECKPOINTS = re.compile(rf"({'|'.join(STEPS)})-[0-9a-f]{{16}}")


def shared_volume(pod: OwnPod) -> Path:
    """The folder that this pod and the nodes share; ConfigError if it cannot be one."""
    folder = os.environ.get(WORK, "")
    claims = [claim for path, claim in pod.claims.items() if Path(folder).is_relative_to(path)]
    if not folder or not claims:
        mounted = ", ".join(f"{claim} at {path}" for path, claim in pod.claims.items()) or "none"
        raise ConfigError(
            f"training_job.num_nodes: {WORK} is {folder!r}, expected a folder of a volume claim "
            f"(ReadWriteMany) that the nodes mount at the same path; mounted here: {mounted}; "
            "compile the pipeline with `--work-volume CLAIM`"
        )
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".written-by-{pod.name}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot write to the volume claim {claims[0]}: {error}; it must be "
            "ReadWriteMany and writable for the user of the images"
        ) from error
    return path


def stage(source: Path, shared: Path, target: Path) -> Path:
    """The input at a path that the nodes see: `source` if it is on the volume, else a copy.

    A copy that an earlier attempt left is used again if every digest is right.
    """
    if source.absolute().is_relative_to(shared.absolute()):
        return source
    if target.exists() and not _is_copy(source, target):
        shutil.rmtree(target)
    if not target.exists():
        copy_whole(source, target)
    return target


def take_over(written: Path, checkpoint: Path, step: str) -> None:
    """Copy the artifact that rank 0 wrote, and check it."""
    if not is_artifact(written):
        raise TrainingError(
            f"{written}: the TrainJob is complete, but there is no artifact here; its pods must "
            f"mount the volume of {WORK} at the same path as the step's pod"
        )
    copy_whole(written, checkpoint)  # KFP's launcher creates an empty folder, which this replaces
    open_artifact(checkpoint, step).verify()


def remove_leftovers(shared: Path, job_exists: Callable[[str], bool]) -> None:
    """Remove the files of jobs that ended without cleaning up, and checkpoints nobody uses."""
    jobs = shared / JOBS
    for folder in jobs.iterdir() if jobs.is_dir() else ():
        if _age_days(folder) > MAX_JOB_AGE_DAYS and not job_exists(folder.name):
            logger.info("%s: removing the files of a TrainJob that no longer exists", folder)
            shutil.rmtree(folder, ignore_errors=True)
    for folder in shared.iterdir():
        if _CHECKPOINTS.fullmatch(folder.name) and _age_days(folder) > MAX_AGE_DAYS:
            logger.info("%s: removing checkpoints older than %d days", folder, MAX_AGE_DAYS)
            shutil.rmtree(folder, ignore_errors=True)


def copy_whole(source: Path, target: Path) -> None:
    """Copy a folder, which appears when the copy is complete."""
    with whole_folder(target) as partial:
        shutil.copytree(source, partial, dirs_exist_ok=True)


def is_artifact(folder: Path) -> bool:
    """Whether a folder holds a finished artifact."""
    return (folder / MANIFEST).is_file()


def _is_copy(source: Path, target: Path) -> bool:
    """Whether `target` is an undamaged copy of the artifact `source`."""
    try:
        content = (source / MANIFEST).read_bytes()
        if (target / MANIFEST).read_bytes() != content:
            return False
        Artifact(target, parse_manifest(content, str(target), "the step before")).verify()
    except (OSError, ArtifactError) as error:
        logger.warning("%s: this copy cannot be used, copying it again: %s", target, error)
        return False
    return True


def _age_days(folder: Path) -> float:
    """Days since something was last created, renamed or removed in a folder."""
    try:
        return (time.time() - folder.stat().st_mtime) / 86_400
    except FileNotFoundError:  # another step removed it
        return 0.0
