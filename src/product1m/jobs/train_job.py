"""Training on several nodes: a Kubeflow Trainer `TrainJob` that its step starts and follows.

The step's pod and the nodes share one volume, `$PRODUCT1M_WORK`: the step puts its inputs there
(with `storage.root` set these are manifests and tables, the bulk stays in storage), the nodes keep
their checkpoints there, and rank 0 writes the artifact there, which the step takes over.

The job's name is a function of the run, the inputs and the section: a step that is tried again
finds the job of the attempt before and follows that one.
"""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from product1m.artifacts.atomic import whole_folder
from product1m.artifacts.folder import open_artifact
from product1m.artifacts.manifest import MANIFEST
from product1m.config import StepConfig, TrainingJobConfig
from product1m.errors import ConfigError, TrainingError
from product1m.jobs.follow import Follower
from product1m.jobs.kubernetes_api import GROUP, VERSION, Cluster, Json, OwnPod
from product1m.jobs.torchrun import step_command

logger = logging.getLogger(__name__)

WORK = "PRODUCT1M_WORK"
PASSED_ON = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_RUN_ID",
    "PRODUCT1M_IMAGE",
    "PRODUCT1M_PIPELINE_RUN",
    WORK,
)
"""What the nodes' environment takes from the step's; credentials come from the runtime."""
MAX_REMOVAL_S = 180.0
"""How long a job may take to be gone before another takes its name (ours)."""
MAX_CLEANUP_S = 20.0
"""Less than the time a pod has between SIGTERM and SIGKILL (ours)."""


def run(
    step: str,
    inputs: Sequence[Path],
    checkpoint: Path,
    config: StepConfig,
    job: TrainingJobConfig,
    poll_s: float = 5.0,
) -> None:
    """Train on the nodes of a TrainJob and write the artifact at `checkpoint`.

    The job is removed in the end, whatever the end is.

    Args:
        step: its name.
        inputs: its input folders, in order.
        checkpoint: the artifact folder to write.
        config: its section.
        job: nodes, processes and patience.
        poll_s: seconds between two looks at the job.

    Raises:
        TrainingError: the job failed, was pending or running for too long, or was refused.
        ConfigError: no cluster, or no volume that the nodes share.
    """
    cluster = Cluster.connect()
    pod = cluster.own_pod()
    shared = _shared_volume(pod)
    name = job_name(step, inputs, checkpoint, config, job, pod.image)
    place = shared / "train-jobs" / name
    staged = [_staged(source, shared, place / "inputs" / str(n)) for n, source in enumerate(inputs)]
    written = place / "checkpoint"
    body = train_job(name, pod, job, step_command(step, staged, written, config))
    try:
        _start(cluster, body, written)
        Follower(cluster, name, job, poll_s).follow()
        _take_over(written, checkpoint, step)
    finally:
        _remove(name, cluster.namespace)
    shutil.rmtree(place)


def job_name(
    step: str,
    inputs: Sequence[Path],
    checkpoint: Path,
    config: StepConfig,
    job: TrainingJobConfig,
    image: str,
) -> str:
    """A name that another attempt at the same work finds again, and no other work.

    KFP gives a run's attempts at a task one output folder, and no two runs the same.
    """
    digests = [(path / MANIFEST).read_text("utf-8") for path in inputs if _is_artifact(path)]
    identity = [
        digests,
        str(checkpoint),
        config.model_dump(mode="json"),
        job.model_dump(mode="json"),
        image,
    ]
    digest = hashlib.sha256(json.dumps([step, identity]).encode()).hexdigest()
    return f"{step.replace('_', '-')}-{digest[:12]}"


def train_job(name: str, pod: OwnPod, job: TrainingJobConfig, command: Sequence[str]) -> Json:
    """The TrainJob's manifest; nodes have what the runtime gives them."""
    environment = {key: os.environ[key] for key in PASSED_ON if os.environ.get(key)}
    metadata: Json = {
        "name": name,
        "labels": {
            "app.kubernetes.io/name": "product1m",
            "app.kubernetes.io/component": name.rpartition("-")[0],
            "app.kubernetes.io/managed-by": "product1m",
        },
        "annotations": {"product1m/started-by": pod.name},
    }
    if pod.owners:  # the run's workflow: when it is deleted, so is the job
        keys = ("apiVersion", "kind", "name", "uid")
        metadata["ownerReferences"] = [{key: one[key] for key in keys} for one in pod.owners]
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": metadata,
        "spec": {
            "runtimeRef": {
                "name": job.runtime,
                "kind": "ClusterTrainingRuntime",
                "apiGroup": GROUP,
            },
            "activeDeadlineSeconds": job.max_pending_s + job.max_running_s,
            "trainer": {
                "image": pod.image,
                "numNodes": job.num_nodes,
                "numProcPerNode": job.processes_per_node,
                **_resources(job),
                # Nodes start one after the other: torchrun waits for the last one.
                "command": [
                    *("python", "-m", "torch.distributed.run"),
                    f"--max-restarts={job.max_restarts}",
                    f"--rdzv-conf=timeout={job.max_pending_s}",
                    *("-m", *command),
                ],
                "env": [{"name": key, "value": value} for key, value in environment.items()],
            },
        },
    }


def _resources(job: TrainingJobConfig) -> Json:
    """Trainer merges them key by key into the runtime's, which therefore must name no GPU."""
    wanted = job.node_resources
    return {"resourcesPerNode": {"requests": wanted, "limits": wanted}} if wanted else {}


def _start(cluster: Cluster, body: Json, written: Path) -> None:
    """Create the job, or find the one of an earlier attempt.

    One that failed, is being removed, or left nothing behind makes room for a new one.
    """
    name = body["metadata"]["name"]
    deadline = time.monotonic() + MAX_REMOVAL_S
    while not cluster.create(body):
        found = cluster.get(name)
        if found is None:
            continue
        leaving = "deletionTimestamp" in found["metadata"]
        useless = condition(found, "Complete") and not _is_artifact(written)
        if not (leaving or useless or condition(found, "Failed")):
            logger.info("TrainJob %s: an earlier attempt started it; going on with it", name)
            return
        if time.monotonic() > deadline:
            raise TrainingError(
                f"TrainJob {name}: an earlier one of this name is still there after "
                f"{MAX_REMOVAL_S:.0f} s; see `kubectl -n {cluster.namespace} describe trainjob "
                f"{name}`"
            )
        if not leaving:
            cluster.delete(name)
        time.sleep(1.0)
    spec = body["spec"]["trainer"]
    logger.info(
        "TrainJob %s: %d nodes of %d processes", name, spec["numNodes"], spec["numProcPerNode"]
    )


def condition(job: Json, kind: str) -> Json | None:
    """A job's condition, if it is met."""
    for one in job.get("status", {}).get("conditions", []):
        if one["type"] == kind and one["status"] == "True":
            return dict(one)
    return None


def _shared_volume(pod: OwnPod) -> Path:
    """The folder that this pod and the nodes share."""
    folder = os.environ.get(WORK, "")
    claims = [claim for path, claim in pod.claims.items() if Path(folder).is_relative_to(path)]
    if not folder or not claims:
        mounted = ", ".join(f"{claim} at {path}" for path, claim in pod.claims.items()) or "none"
        raise ConfigError(
            f"training_job.num_nodes: {WORK} is {folder!r}, expected a folder of a volume claim "
            f"(ReadWriteMany) that the nodes mount at the same place; mounted here: {mounted}; "
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
            f"{path}: volume claim {claims[0]}: cannot be written: {error}; it must be "
            "ReadWriteMany and writable for the user of the images"
        ) from error
    return path


def _staged(source: Path, shared: Path, target: Path) -> Path:
    """The input where the nodes see it: as it lies if it is there already, else a copy."""
    if source.absolute().is_relative_to(shared.absolute()):
        return source
    if not target.exists():
        _copy_whole(source, target)
    return target


def _copy_whole(source: Path, target: Path) -> None:
    with whole_folder(target) as partial:
        shutil.copytree(source, partial, dirs_exist_ok=True)


def _is_artifact(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def _take_over(written: Path, checkpoint: Path, step: str) -> None:
    """Copy what rank 0 wrote, and check it."""
    if not _is_artifact(written):
        raise TrainingError(
            f"{written}: the TrainJob is complete, but there is no artifact here; its pods must "
            f"mount the volume of {WORK} at the same place as the step's pod"
        )
    _copy_whole(written, checkpoint)  # KFP's launcher makes an empty folder, which this replaces
    open_artifact(checkpoint, step).verify()


def _remove(name: str, namespace: str) -> None:
    """Delete the job; what ended the step is the news, so a failure only warns."""
    try:
        Cluster(namespace, MAX_CLEANUP_S).delete(name)
    except TrainingError as error:
        logger.warning(
            "%s; remove it by hand: `kubectl -n %s delete trainjob %s`", error, namespace, name
        )
