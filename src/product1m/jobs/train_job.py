"""Training on several nodes: a Kubeflow Trainer `TrainJob` that its step starts and follows.

The step's pod and the nodes share one volume, `$PRODUCT1M_WORK`: the step puts its inputs there
(with `storage.root` set these are manifests and tables, the bulk stays in storage), the nodes keep
their checkpoints there, and rank 0 writes the artifact there, which the step copies.

The job's name is a function of the run, the inputs and the section: a step that is run again finds
the job of its previous attempt and follows it.
"""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from product1m.artifacts.manifest import MANIFEST
from product1m.artifacts.work import WORK
from product1m.config import StepConfig, TrainingJobConfig
from product1m.errors import TrainingError
from product1m.jobs.follow import Follower
from product1m.jobs.kubernetes_api import GROUP, VERSION, Json, OwnPod, TrainJobApi, condition
from product1m.jobs.torchrun import MODULE, step_command
from product1m.jobs.work_volume import (
    JOBS,
    is_artifact,
    remove_leftovers,
    shared_volume,
    stage,
    take_over,
)

logger = logging.getLogger(__name__)

PASSED_ON = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_RUN_ID",
    "PRODUCT1M_IMAGE",
    "PRODUCT1M_PIPELINE_RUN",
    WORK,
)
"""Variables that the nodes get from the step's environment; credentials come from the runtime."""
MAX_REMOVAL_S = 180.0
"""How long a job may take to disappear before another gets its name (ours)."""
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

    The job, its copies of the inputs and its unfinished artifact are removed at the end, also after
    a failure; checkpoints stay until the artifact is complete.

    Args:
        step: its name.
        inputs: its input folders, in order.
        checkpoint: the artifact folder to write.
        config: its section.
        job: nodes, processes and time limits; its state is requested every `poll_s` seconds.

    Raises:
        TrainingError: the job failed, was pending or running for too long, or was refused.
        ConfigError: no cluster, or no volume that the nodes share.
    """
    cluster = TrainJobApi.connect()
    pod = cluster.own_pod()
    shared = shared_volume(pod)
    remove_leftovers(shared, lambda name: cluster.get(name) is not None)
    name = job_name(step, inputs, checkpoint, config, job, pod.image)
    folder = shared / JOBS / name
    written = folder / "checkpoint"
    try:
        staged = [stage(path, shared, folder / f"inputs/{n}") for n, path in enumerate(inputs)]
        body = train_job(name, pod, job, step_command(step, staged, written, config))
        _start(cluster, body, written)
        Follower(cluster, name, job, poll_s).follow()
        take_over(written, checkpoint, step)
    finally:
        if _remove(name, cluster.namespace):  # else its pods may still read them
            shutil.rmtree(folder, ignore_errors=True)


def job_name(
    step: str,
    inputs: Sequence[Path],
    checkpoint: Path,
    config: StepConfig,
    job: TrainingJobConfig,
    image: str,
) -> str:
    """A name that another attempt at the same work finds again, and that no other work has.

    KFP gives a run's attempts at a task one output folder, and no two runs the same.
    """
    digests = [
        (path / MANIFEST).read_text("utf-8", "replace") for path in inputs if is_artifact(path)
    ]
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
    """The TrainJob's manifest; the runtime decides what the nodes are."""
    environment = {key: os.environ[key] for key in PASSED_ON if os.environ.get(key)}
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": _metadata(name, pod),
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
                # Nodes start one after the other: torchrun waits for the last one. JobSet restarts
                # all nodes, so torchrun restarts none: its ranks would wait for ranks that left.
                "command": [
                    *("python", "-m", MODULE),
                    "--max-restarts=0",
                    f"--rdzv-conf=timeout={job.max_pending_s}",
                    *("-m", *command),
                ],
                "env": [{"name": key, "value": value} for key, value in environment.items()],
            },
        },
    }


def _metadata(name: str, pod: OwnPod) -> Json:
    metadata: Json = {
        "name": name,
        "labels": {
            "app.kubernetes.io/name": "product1m",
            "app.kubernetes.io/component": name.rpartition("-")[0],
            "app.kubernetes.io/managed-by": "product1m",
        },
        "annotations": {"product1m/started-by": pod.name},
    }
    if pod.owners:  # the run's workflow: deleting it deletes the job
        keys = ("apiVersion", "kind", "name", "uid")
        metadata["ownerReferences"] = [{key: owner[key] for key in keys} for owner in pod.owners]
    return metadata


def _resources(job: TrainingJobConfig) -> Json:
    """Trainer merges them key by key into the runtime's, which therefore must name no GPU."""
    wanted = job.node_resources
    return {"resourcesPerNode": {"requests": wanted, "limits": wanted}} if wanted else {}


def _start(cluster: TrainJobApi, body: Json, written: Path) -> None:
    """Create the job, or find the one of an earlier attempt.

    A job that failed, is being deleted, or left no artifact is replaced by a new one.
    """
    name = body["metadata"]["name"]
    deadline = time.monotonic() + MAX_REMOVAL_S
    while not cluster.create(body):
        existing = cluster.get(name)
        if existing is None:
            continue
        leaving = "deletionTimestamp" in existing["metadata"]
        useless = condition(existing, "Complete") and not is_artifact(written)
        if not (leaving or useless or condition(existing, "Failed")):
            logger.info("TrainJob %s: an earlier attempt started it; following it", name)
            return
        if time.monotonic() > deadline:
            raise TrainingError(
                f"TrainJob {name}: an earlier job of this name still exists after "
                f"{MAX_REMOVAL_S:.0f} s; see `kubectl -n {cluster.namespace} describe trainjob "
                f"{name}`"
            )
        if not leaving:
            cluster.delete(name)
        time.sleep(1.0)
    spec = body["spec"]["trainer"]
    logger.info(
        "TrainJob %s: created, %d nodes with %d processes each",
        *(name, spec["numNodes"], spec["numProcPerNode"]),
    )


def _remove(name: str, namespace: str) -> bool:
    """Delete the job; False, with a warning, if that fails: what ended the step matters more."""
    try:
        TrainJobApi(namespace, MAX_CLEANUP_S).delete(name)
    except TrainingError as error:
        logger.warning(
            "%s; remove it by hand: `kubectl -n %s delete trainjob %s`", error, namespace, name
        )
        return False
    return True
