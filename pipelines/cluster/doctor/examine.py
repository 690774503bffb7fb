"""All checks that only read, in the order of the report."""

from collections.abc import Callable, Iterator

from pipelines.cluster.api import Cluster, ClusterError
from pipelines.cluster.doctor import installation, settings, sizes, trainer, tried_versions
from pipelines.cluster.doctor.cluster_reader import ClusterReader, HiddenError
from pipelines.cluster.doctor.finding import Finding

Check = Callable[[ClusterReader], Iterator[Finding]]
CHECKS: dict[str, Check] = {
    "versions": tried_versions.versions,
    "namespace": installation.pod_security,
    "service account": settings.account,
    "addresses": settings.addresses,
    "secrets": settings.secrets,
    "work volume": settings.volume,
    "nodes": sizes.nodes,
    "quota": sizes.quota,
    "retries": installation.retries,
    "time zone": installation.time_zone,
    "network policies": installation.network,
    "Kubeflow Trainer": trainer.trainer,
}


def examine(reader: ClusterReader) -> Iterator[Finding]:
    """Every finding; what may not be read is a finding too."""
    for subject, check in CHECKS.items():
        try:
            yield from check(reader)
        except HiddenError as error:
            advice = "ask someone who may read it, or rely on `check-cluster`"
            yield Finding(subject, "unknown", str(error), "the right to read it", advice)


def pipeline_api(endpoint: str, namespace: str) -> Finding:
    """Whether the pipeline API answers, as `submit` asks it."""
    try:
        cluster = Cluster(endpoint, namespace)
        method = cluster.experiments.experiment_service_list_experiments
        cluster.call("listing experiments", method, page_size=1, **cluster.scope)
    except (ClusterError, ValueError) as error:
        return Finding(
            "pipeline API", "problem", str(error), "an answer to `submit`",
            "`kubectl -n kubeflow port-forward service/ml-pipeline 8888` and "
            "KF_PIPELINES_ENDPOINT=http://localhost:8888",
        )  # fmt: skip
    return Finding("pipeline API", "ok", cluster.endpoint)
