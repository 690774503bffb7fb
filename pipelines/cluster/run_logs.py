"""The logs of a cluster's run, task by task."""

from pipelines.cluster.api import Cluster, ClusterError
from pipelines.cluster.diagnosis import look
from pipelines.cluster.pods import latest_node, latest_pod
from pipelines.cluster.step_log import read_log, source_of
from pipelines.cluster.tasks import graph_of, run_state, task_states
from product1m.errors import PipelineError

_WITHOUT_LOG = {
    "CACHED": "came from the cache and did not run",
    "NOT RUN": "did not run",
    "SKIPPED": "was not needed, because the catalogue has not drifted",
    "PENDING": "has not started yet",
}


def logs_of(cluster: Cluster, run_id: str, only: str = "") -> list[tuple[str, str]]:
    """Shown name and log of every task's last attempt, or of the task that `only` names.

    Raises PipelineError if that task did not run, or if no log can be read.
    """
    run = cluster.call("reading the run", cluster.runs.run_service_get_run, run_id)
    graph = graph_of(cluster, run)
    sight = look(run_id, cluster.namespace)
    logs, problems = [], list(sight.problems)
    for task in task_states(run, graph):
        if only not in ("", task.name):
            continue
        if task.state in _WITHOUT_LOG:
            if only:
                raise PipelineError(f"{run_id}: {only} {_WITHOUT_LOG[task.state]}; it has no log")
            continue
        pod, node = latest_pod(sight.pods, task.key), latest_node(sight.nodes, task.key)
        if task.state == "RUNNING" and not pod and not node and not sight.problems:
            logs.append((task.name, "(its pod has not started yet)"))
            continue
        try:
            lines = read_log(cluster, source_of(run, task.key, pod, sight.workflow, node))
        except ClusterError as error:
            problems.append(str(error))
        else:
            waits = f"(it cannot start: {pod.waiting})" if pod and pod.waiting else ""
            logs.append((task.name, "\n".join(lines) or waits or "(nothing printed yet)"))
    if not logs and problems:
        raise PipelineError(f"{run_id}: {'; '.join(problems)}")
    if not logs and not only:
        raise PipelineError(f"{run_id}: no task has started yet; the run is {run_state(run)}")
    return logs
