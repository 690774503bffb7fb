"""A Kubernetes API that holds objects as they are and runs the pods it is given, for tests.

Objects are plain JSON by path, in the shapes that a real cluster answers. A pod that is created
runs at once as a process of this machine, with exactly the environment that its specification
names, and is then `Succeeded` or `Failed`, as Kubernetes reports it.
"""

import json
import subprocess
import sys
import threading
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.support.servers.kubeconfig import write_kubeconfig

Json = dict[str, Any]


@dataclass
class Objects:
    """What the cluster holds."""

    url: str
    by_path: dict[str, Json] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    """Paths that these credentials may not read."""
    requests: list[str] = field(default_factory=list)
    logs: dict[str, str] = field(default_factory=dict)
    waiting: Json | None = None
    """State of a container of every new pod that cannot start."""

    def kubeconfig(self, folder: Path) -> Path:
        """A file that names this server."""
        return write_kubeconfig(folder, self.url)

    def create_pod(self, namespace: str, pod: Json) -> Json:
        """Run its main container here, or leave it waiting."""
        name = pod["metadata"]["name"]
        path = f"/api/v1/namespaces/{namespace}/pods/{name}"
        status: Json = {"phase": "Pending"}
        container = pod["spec"]["containers"][0]
        if self.waiting:
            status["containerStatuses"] = [
                {"name": "main", "image": container["image"], "state": {"waiting": self.waiting}}
            ]
        else:
            command = [
                sys.executable if part == "python" else part for part in container["command"]
            ]
            done = subprocess.run(
                command,
                env={**self._environment(namespace, container), "OMP_NUM_THREADS": "1"},
                check=False,
                capture_output=True,
                text=True,
            )
            self.logs[f"{path}/log"] = done.stderr + done.stdout
            status["phase"] = "Failed" if done.returncode else "Succeeded"
        self.by_path[path] = {**pod, "status": status}
        return self.by_path[path]

    def _environment(self, namespace: str, container: Json) -> dict[str, str]:
        found = {}
        for entry in container["env"]:
            if "value" in entry:
                found[entry["name"]] = entry["value"]
                continue
            ((kind, source),) = entry["valueFrom"].items()
            plural = {"configMapKeyRef": "configmaps", "secretKeyRef": "secrets"}[kind]
            data = self.by_path[f"/api/v1/namespaces/{namespace}/{plural}/{source['name']}"]["data"]
            if source["key"] in data or not source["optional"]:
                value = data[source["key"]]
                is_secret = plural == "secrets"
                found[entry["name"]] = b64decode(value).decode() if is_secret else value
        return found


@contextmanager
def serving_objects() -> Iterator[Objects]:
    """A server on a free port within the block."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    http.daemon_threads = True
    objects = Objects(f"http://127.0.0.1:{http.server_address[1]}")
    http.objects = objects  # type: ignore[attr-defined]
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield objects
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        objects: Objects = self.server.objects  # type: ignore[attr-defined]
        path = urlsplit(self.path).path
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        objects.requests.append(f"{self.command} {path}")
        if path in objects.hidden:
            self._answer(403, {"kind": "Status", "reason": "Forbidden", "code": 403})
        elif self.command == "POST":
            self._answer(201, objects.create_pod(path.split("/")[4], json.loads(body)))
        elif self.command == "GET" and path in objects.logs:
            self._answer(200, objects.logs[path])
        elif path in objects.by_path:
            found = objects.by_path[path]
            if self.command == "DELETE":
                del objects.by_path[path]
            self._answer(200, found)
        else:
            self._answer(404, {"kind": "Status", "reason": "NotFound", "code": 404})

    do_GET = do_POST = do_DELETE = _serve  # noqa: N815 names of the base class

    def _answer(self, status: int, answer: Any) -> None:
        is_text = isinstance(answer, str)
        sent = (answer if is_text else json.dumps(answer)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if is_text else "application/json")
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, format: str, *args: Any) -> None:
        """Tests read what was asked from `requests`."""
