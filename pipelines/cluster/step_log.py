"""What a step printed: from its pod, from KFP, or from the artifact store once the pod is gone.

In a pod's log KFP's launcher and executor write before and after the step; their lines and the
executor's input are left out.
"""

import functools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import kfp_server_api as api

from pipelines.cluster.api import Cluster, ClusterError
from pipelines.cluster.pods import FAILURES, MAIN, TIMEOUT, Node, Pod, Workflow, core, short
from pipelines.cluster.tasks import last_pod_name
from pipelines.graph.package import NAMES
from pipelines.local.console import EXECUTOR_LINE, EXECUTOR_NOISE
from product1m.errors import Product1MError
from product1m.storage.base import is_remote
from product1m.storage.opening import open_store

_LAUNCHER = re.compile(
    r'[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+\s+\d+ \S+\] |time="[^"]*" level=|Error: exit status \d+$'
)
"""A line of the launcher (glog) or of Argo's emissary (logrus), or the emissary's last line."""
_RAISED = re.compile(r"(?:[A-Za-z_]\w*\.)*([A-Z]\w*(?:Error|Exception|Interrupt|Exit))(?::|$)")
_TRACEBACK = "Traceback (most recent call last)"
_EXECUTOR_LOG = "executor-logs-"
"""Name of the log that KFP's launcher uploads beside a task's outputs; the attempt follows."""


@dataclass(frozen=True)
class LogSource:
    """Where a task's log can be."""

    run: api.V2beta1Run
    task: str
    pod: Pod | None = None
    node: Node | None = None
    bucket: str = ""
    """Bucket of the logs that Argo keeps."""


def source_of(
    run: api.V2beta1Run, task: str, pod: Pod | None, workflow: Workflow | None, node: Node | None
) -> LogSource:
    """Where the log of a task's last attempt can be."""
    return LogSource(run, task, pod, node, workflow.bucket if workflow else "")


def read_log(cluster: Cluster, source: LogSource) -> list[str]:
    """The step's own lines; empty if it printed nothing yet.

    Raises ClusterError that names each place that was tried and why it has no log.
    """
    if source.pod and source.pod.phase == "Pending":
        return []
    tried = []
    for name, read in _places(cluster, source):
        try:
            text = read()
        except (ClusterError, Product1MError, *FAILURES) as error:
            tried.append(f"{name}: {short(error)}")
        else:
            return step_lines(text)
    places = "; ".join(tried) or "its pod is gone and its workflow cannot be read"
    raise ClusterError(f"the log of {source.task} is not available ({places})")


def step_lines(text: str) -> list[str]:
    """A pod's log without the lines of KFP's launcher and executor."""
    own: list[str] = []
    in_block = False
    for line in text.splitlines():
        if in_block:
            in_block = not line.endswith("}") or line.startswith(" ")
            continue
        executor = EXECUTOR_LINE.match(line)
        if _LAUNCHER.match(line):
            in_block = line.endswith("{")
        elif executor and executor[3].startswith(EXECUTOR_NOISE):
            in_block = executor[3].startswith("Got executor_input")
        elif line.strip():
            own.append(line)
    return own


def in_words(line: str) -> str:
    """A line as a person reads it: of a JSON line the time, the level and the message."""
    record = _record(line)
    if record is None:
        return line
    level = record.get("level", "INFO")
    mark = "" if level == "INFO" else f"{level} "
    return f"{str(record.get('time', ''))[11:19]} {mark}{record.get('message', '')}"


def error_in(lines: Sequence[str]) -> str:
    """The last error that a step reports, all its lines; empty if it reports none."""
    for line in reversed(lines):
        record = _record(line)
        if record and record.get("level") in ("ERROR", "CRITICAL"):
            return str(record.get("message", ""))
    starts = [index for index, line in enumerate(lines) if line.startswith(_TRACEBACK)]
    if not starts:
        return ""
    error: list[str] = []
    for line in lines[starts[-1] + 1 :]:
        match = _RAISED.match(line)
        if match and not error:
            error.append(line[match.start(1) :])
        elif error and (_record(line) or EXECUTOR_LINE.match(line)):
            break
        elif error:
            error.append(line)
    return "\n".join(error)


def _places(cluster: Cluster, source: LogSource) -> Iterator[tuple[str, Callable[[], str]]]:
    pod, node, run_id = source.pod, source.node, str(source.run.run_id)
    if pod:
        yield "pod", lambda: _pod_log(pod)
    name = pod.name if pod else node.pod if node else last_pod_name(source.run, source.task)
    if name:
        yield "KFP", lambda: _kfp_log(cluster, run_id, name)
    root = (source.run.runtime_config and source.run.runtime_config.pipeline_root) or ""
    if is_remote(root):
        for pipeline in NAMES.values():
            folder = f"{root.rstrip('/')}/{pipeline}/{run_id}/{source.task}"
            yield folder, functools.partial(_uploaded_log, folder)
    if node and node.log_key and source.bucket:
        yield "artifact store", lambda: _kept_log(cluster, source.bucket, node.log_key)


def _pod_log(pod: Pod) -> str:
    answer = core().read_namespaced_pod_log(
        pod.name,
        pod.namespace,
        container=MAIN,
        _preload_content=False,  # the client would take a log of one JSON line for an object
        _request_timeout=TIMEOUT,
    )
    return bytes(answer.data).decode("utf-8", "replace")


def _kfp_log(cluster: Cluster, run_id: str, pod: str) -> str:
    """What KFP's API answers for a pod's log; it is not part of the published API."""
    text = _get(cluster, f"the log of {pod}", f"/apis/v1alpha1/runs/{run_id}/nodes/{pod}/log")
    record = _record(text)
    if record and "error_message" in record:  # with status 200
        raise ClusterError(str(record["error_message"])[:200])
    return text


def _kept_log(cluster: Cluster, bucket: str, key: str) -> str:
    """The log that Argo keeps, through the KFP UI's way to artifacts."""
    query = {"source": "minio", "bucket": bucket, "key": key}
    text = _get(cluster, f"{bucket}/{key}", "/artifacts/get", query)
    if text.lstrip().lower().startswith("<!doctype html"):
        raise ClusterError("the endpoint is not the KFP UI, which serves artifacts")
    return text


def _uploaded_log(folder: str) -> str:
    """The newest log that KFP's launcher uploaded below a task's folder in the pipeline root."""
    store = open_store(folder)
    names = [file.name for file in store.files() if _EXECUTOR_LOG in file.name]
    if not names:
        raise ClusterError(f"no {_EXECUTOR_LOG}* below it")
    return store.read(max(names, key=lambda name: name.rpartition("/")[2])).decode(
        "utf-8", "replace"
    )


def _get(cluster: Cluster, what: str, path: str, query: dict[str, str] | None = None) -> str:
    def read(_request_timeout: tuple[float, float]) -> str:
        answer = cluster.client.call_api(
            path,
            "GET",
            query_params=list((query or {}).items()),
            auth_settings=["Bearer"],
            _return_http_data_only=True,
            _preload_content=False,
            _request_timeout=_request_timeout,
        )
        if answer.status != 200:
            raise api.ApiException(http_resp=answer)
        return bytes(answer.data).decode("utf-8", "replace")

    return str(cluster.call(f"reading {what}", read))


def _record(line: str) -> dict[str, object] | None:
    """A line that is a JSON object."""
    if not line.startswith("{"):
        return None
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
