"""Kubeflow Trainer and the runtime of training on several nodes."""

from collections.abc import Iterator

from pipelines.cluster.doctor.cluster_reader import ClusterReader
from pipelines.cluster.doctor.finding import Finding, Level

GROUP = "trainer.kubeflow.org"
_INSTALL = "install Kubeflow Trainer 2.2 or later, see manifests/README.md"


def trainer(reader: ClusterReader) -> Iterator[Finding]:
    """Problems only where the run trains on several nodes."""
    bad: Level = "problem" if reader.wanted.num_nodes > 1 else "note"
    needed = "only for training_job.num_nodes above 1"
    definition = reader.get(
        f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/trainjobs.{GROUP}"
    )
    if definition is None:
        yield Finding("Kubeflow Trainer", bad, "is not installed", needed, _INSTALL)
        return
    yield Finding("Kubeflow Trainer", "ok", "knows TrainJob")
    name = reader.wanted.runtime
    runtime = reader.get(f"/apis/{GROUP}/v1alpha1/clustertrainingruntimes/{name}")
    if runtime is None:
        advice = (
            "`kubectl apply -k manifests/base/training`; Trainer's webhook refuses it until "
            "about 90 s after its installation"
        )
        yield Finding(f"runtime {name}", bad, "does not exist", needed, advice)
        return
    gpus = _gpus(runtime)
    if gpus:
        yield Finding(
            f"runtime {name}", "note", f"requests {', '.join(gpus)} itself",
            "no GPUs in the runtime: a TrainJob cannot take them away",
            "apply manifests/base/training; the profile decides what a node requests",
        )  # fmt: skip
    else:
        yield Finding(f"runtime {name}", "ok", "the profile decides what a node requests")


def _gpus(runtime: dict[str, object]) -> list[str]:
    """GPU resources that the runtime's containers request."""
    gpus = []
    spec: dict[str, object] = runtime["spec"]["template"]["spec"]  # type: ignore[index]
    for job in spec["replicatedJobs"]:  # type: ignore[attr-defined]
        for container in job["template"]["spec"]["template"]["spec"]["containers"]:
            limits = container.get("resources", {}).get("limits", {})
            gpus += [key for key in limits if "/" in key]
    return gpus
