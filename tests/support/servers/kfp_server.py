"""A pipeline API on this machine, for tests: real HTTP, KFP's published models, faults on demand.

Every body is checked against the OpenAPI model of its operation (names, types, enumerations) and
every answer is such a model. The state behaves as KFP 2.17's sources say: versions never change,
names conflict, a schedule cannot be updated, and deleting one ends its runs unless they are
orphaned. A run advances one frame each time it is asked for.
"""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import kfp_server_api as api

from tests.support.worlds.kfp_world import Refusal, World

Route = tuple[str, str, str, Callable[..., Any]]


@dataclass
class Fault:
    """What happens to the next requests that match."""

    method: str
    path: str
    """Regular expression, searched for in the path."""
    kind: str
    """A status; `reset` without an answer; `lost`, done but not answered; `slow`."""
    times: int = 1
    seconds: float = 0.0


@dataclass
class KfpServer:
    """The running server: its address, its state, what was asked of it."""

    url: str
    world: World
    faults: list[Fault] = field(default_factory=list)
    token: str = ""
    """If set, every request has to bear it."""
    requests: list[str] = field(default_factory=list)
    """`GET /apis/…`, without the query."""

    def fault(self, method: str, path: str, kind: str, times: int = 1, seconds: float = 0) -> None:
        """Let the next matching requests fail."""
        self.faults.append(Fault(method, path, kind, times, seconds))

    def asked(self, what: str) -> int:
        """How many requests matched `what`, as in `POST /apis/v2beta1/runs`."""
        return sum(bool(re.fullmatch(what, request)) for request in self.requests)


@contextmanager
def serving() -> Iterator[KfpServer]:
    """A server on a free port within the block."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    http.daemon_threads = True
    server = KfpServer(f"http://127.0.0.1:{http.server_address[1]}", World())
    http.kfp = server  # type: ignore[attr-defined]
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def routes(world: World) -> list[Route]:
    """Method, path, model of the body, what answers it; arguments are by name."""
    base = "/apis/v2beta1"
    runs, schedules, pipelines = f"{base}/runs", f"{base}/recurringruns", f"{base}/pipelines"
    kubernetes = "/api/v1/namespaces/{namespace}/pods"
    workflows = "/apis/argoproj.io/v1alpha1/namespaces/{namespace}/workflows"
    return [
        ("GET", f"{base}/experiments", "", world.list_experiments),
        ("POST", f"{base}/experiments", "V2beta1Experiment", world.create_experiment),
        ("GET", pipelines, "", world.list_pipelines),
        ("POST", pipelines, "V2beta1Pipeline", world.create_pipeline),
        ("POST", f"{pipelines}/upload_version", "upload", world.upload_version),
        ("GET", f"{pipelines}/{{pipeline_id}}/versions", "", world.list_versions),
        ("GET", f"{pipelines}/{{pipeline_id}}/versions/{{version_id}}", "", world.get_version),
        ("GET", runs, "", world.list_runs),
        ("POST", runs, "V2beta1Run", world.create_run),
        ("GET", f"{runs}/{{run_id}}", "", world.get_run),
        ("POST", f"{runs}/{{run_id}}:retry", "", world.retry_run),
        ("POST", f"{runs}/{{run_id}}:terminate", "", world.terminate_run),
        ("GET", schedules, "", world.list_schedules),
        ("POST", schedules, "V2beta1RecurringRun", world.create_schedule),
        ("POST", f"{schedules}/{{schedule_id}}:enable", "", world.enable_schedule),
        ("POST", f"{schedules}/{{schedule_id}}:disable", "", world.disable_schedule),
        ("DELETE", f"{schedules}/{{schedule_id}}", "", world.delete_schedule),
        ("GET", "/apis/v1alpha1/runs/{run_id}/nodes/{pod}/log", "", world.read_log),
        ("GET", "/artifacts/get", "", world.read_artifact),
        ("GET", kubernetes, "", world.list_pods),
        ("GET", workflows, "", world.list_workflows),
        ("GET", f"{kubernetes}/{{pod}}/log", "", world.read_pod_log),
    ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        server: KfpServer = self.server.kfp  # type: ignore[attr-defined]
        address = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server.requests.append(f"{self.command} {address.path}")
        fault = self._fault(server, address.path)
        if fault == "reset":
            self._hang_up()
        elif fault.isdigit():
            self._answer(int(fault), {"code": 13, "message": f"injected {fault}", "details": []})
        elif server.token and self.headers.get("Authorization") != f"Bearer {server.token}":
            self._answer(
                401, {"code": 16, "message": "Request header error: no user", "details": []}
            )
        else:
            try:
                status, answer = 200, self._handle(server.world, address.path, body)
            except Refusal as refusal:
                message = {"code": refusal.code, "message": refusal.message, "details": []}
                status, answer = refusal.status, message
            if fault == "lost":
                self._hang_up()
            else:
                self._answer(status, answer)

    do_GET = do_POST = do_DELETE = _serve  # noqa: N815 the names http.server asks for

    def _fault(self, server: KfpServer, path: str) -> str:
        for fault in server.faults:
            if fault.times and fault.method == self.command and re.search(fault.path, path):
                fault.times -= 1
                time.sleep(fault.seconds)
                return fault.kind
        return ""

    def _handle(self, world: World, path: str, body: bytes) -> Any:
        query = {key: values[-1] for key, values in parse_qs(urlsplit(self.path).query).items()}
        for method, template, model, answer in routes(world):
            pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/:]+)", template)
            match = re.fullmatch(pattern, unquote(path))
            if match and method == self.command:
                arguments: dict[str, Any] = {**query, **match.groupdict()}
                if model == "upload":
                    arguments["text"] = _uploaded(self.headers["Content-Type"], body)
                elif model:
                    arguments["wanted"] = checked(model, json.loads(body))
                with world.lock:
                    return answer(**arguments)
        raise Refusal(404, 5, f"no such operation: {self.command} {path}")

    def _answer(self, status: int, answer: Any) -> None:
        is_text = isinstance(answer, str)
        sent = answer if is_text else json.dumps(_CLIENT.sanitize_for_serialization(answer))
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if is_text else "application/json")
        self.send_header("Content-Length", str(len(sent.encode())))
        self.end_headers()
        self.wfile.write(sent.encode())

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()

    def log_message(self, format: str, *args: Any) -> None:
        """Tests read what was asked from `requests`."""


_CLIENT = api.ApiClient(api.Configuration())
_PRIMITIVES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "bool": (bool,),
    "object": (dict, list, str, int, float, bool),
    "datetime": (str,),
}


def checked(model: str, value: Any) -> Any:
    """The body as an object of KFP's model; Refusal names what does not fit."""
    _check(model, value, model)
    try:
        return _CLIENT.deserialize(SimpleNamespace(data=json.dumps(value)), model)
    except (ValueError, AttributeError) as error:  # the models check enumerations when set
        raise Refusal(400, 3, f"{model}: {error}") from error


def _check(kind: str, value: Any, where: str) -> None:
    if match := re.fullmatch(r"list\[(.*)\]", kind):
        _require(isinstance(value, list), where, kind, value)
        for index, item in enumerate(value):
            _check(match[1], item, f"{where}[{index}]")
    elif match := re.fullmatch(r"dict\(str, (.*)\)", kind):
        _require(isinstance(value, dict), where, kind, value)
        for key, item in value.items():
            _check(match[1], item, f"{where}.{key}")
    elif kind in _PRIMITIVES:
        _require(isinstance(value, _PRIMITIVES[kind]), where, kind, value)
        if kind == "datetime":
            _require(_is_time(value), where, kind, value)
    else:
        model = getattr(api, kind)
        if not model.openapi_types:  # an enumeration
            _require(value in model.allowable_values, where, kind, value)
            return
        _require(isinstance(value, dict), where, kind, value)
        types = {model.attribute_map[name]: type_ for name, type_ in model.openapi_types.items()}
        for key, item in value.items():
            _require(key in types, f"{where}.{key}", f"a field of {kind}", key)
            _check(types[key], item, f"{where}.{key}")


def _is_time(value: str) -> bool:
    try:
        datetime.fromisoformat(value).astimezone(UTC)
    except ValueError:
        return False
    return True


def _require(holds: bool, where: str, expected: str, value: Any) -> None:
    if not holds:
        raise Refusal(400, 3, f"{where}: expected {expected}, got {value!r}")


def _uploaded(content_type: str, body: bytes) -> str:
    message = BytesParser().parsebytes(
        b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body
    )
    for part in message.get_payload():
        if part.get_param("name", header="content-disposition") == "uploadfile":  # type: ignore[union-attr]
            payload = part.get_payload(decode=True)  # type: ignore[union-attr]
            assert isinstance(payload, bytes)
            return payload.decode()
    raise Refusal(400, 3, "Failed to read pipeline from file")
