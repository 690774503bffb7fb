"""Containers of a local run: what a step can read and write, how each ended, the MLflow server.

The exit code of a step's container comes from the Docker engine, not from kfp.local. kfp.local lets
the engine remove the container before it reads the exit code, and reports a removed one as success.
"""

import contextlib
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import docker
import requests
from docker.errors import APIError, DockerException, NotFound
from docker.models.containers import Container
from docker.types import Mount
from kfp import local
from kfp.dsl import PipelineTask

from components.images import LOCK, SERVER, image, image_of, locked_images
from pipelines.graph.resources import USER_ID
from product1m.errors import PipelineError
from product1m.telemetry.mlflow_files import FILES

RUN_LABEL, STEP_LABEL = "product1m.run", "product1m.step"
PASSED_PREFIXES = ("AWS_", "GOMP_", "HF_", "MLFLOW_", "OMP_", "PRODUCT1M_")
"""Steps get the environment variables with these prefixes: addresses, credentials, logging."""
_QUIET = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
"""MLflow would print links to a server that stops with the run."""
SERVER_START_S = 240
"""An MLflow server takes up to 40 s to start on two idle cores, longer on busy ones (ours)."""
_EXIT_EVENT_TIMEOUT_S = 10
_LOCKED = {
    "read_only": True,
    "tmpfs": {"/tmp": ""},  # noqa: S108 the only folder inside a container that is writable
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "shm_size": "1g",
    "init": True,
    "network_mode": "host",
}
"""Options of every container; host network, so that it reaches MLflow and S3 on this machine."""


@dataclass(frozen=True)
class StepImages:
    """Sets the image of every task to the one in docker/images.lock."""

    images: Mapping[str, str]

    @classmethod
    def locked(cls) -> "StepImages":
        """Read docker/images.lock; PipelineError if it does not exist."""
        if not LOCK.is_file():
            raise PipelineError(f"{LOCK}: no such file; build the images with `make images`")
        return cls(locked_images())

    def apply(self, task: PipelineTask) -> None:
        """Set the task's image."""
        step = task.component_spec.name.replace("-", "_")
        task.set_container_image(image_of(step, self.images))


class Containers:
    """The containers of one output folder."""

    def __init__(self, output: Path, read: Sequence[Path]) -> None:
        """Steps can write below `output` and MLflow's files only, and read the folders `read`."""
        self._output = output
        self._read = read
        self._files = output / FILES
        self._labels = {RUN_LABEL: str(output)}
        self._since = int(time.time())
        self._ended: set[str] = set()
        try:
            self._engine = docker.from_env()
            self._engine.ping()
        except DockerException as error:
            raise PipelineError(
                f"the Docker engine does not answer: {error}; start it, or run without containers"
            ) from error

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Allow containers within the block; remove this folder's before and after it."""
        self._remove_all()
        self._user = _user_of(self._output)
        try:
            yield
        finally:
            self._remove_all()

    def runner(self, environment: Mapping[str, str]) -> local.DockerRunner:
        """Configure the runner of kfp.local."""
        passed = {
            name: value for name, value in os.environ.items() if name.startswith(PASSED_PREFIXES)
        }
        writable = [self._output / "work", self._files]
        return local.DockerRunner(
            **_LOCKED,
            user=self._user,
            labels=self._labels | {STEP_LABEL: "true"},
            environment={**passed, **_QUIET, **environment},
            mounts=_mounts(writable) + _mounts(self._read, read_only=True),
        )

    def failure(self) -> str:
        """Why the step that ended last failed; empty if its exit code is 0."""
        code = self._exit_code()
        if code is None:
            return "the Docker engine reported no exit code of its container"
        if code == 0:
            return ""
        killed = " (killed, probably out of memory)" if code == 137 else ""
        return f"its container ended with exit code {code}{killed}"

    @contextlib.contextmanager
    def tracking_server(self, uri: str) -> Iterator[str]:
        """Serve an MLflow database over HTTP; the MLflow client of a step needs a server."""
        if not uri.startswith("sqlite:"):
            yield uri
            return
        port = _free_port()
        address = f"http://127.0.0.1:{port}"
        folder = Path(uri.removeprefix("sqlite:///")).parent
        if not folder.is_relative_to(self._output):
            self._files = folder / FILES  # a step reads and writes these past the server
            self._files.mkdir(exist_ok=True)
            _give_to_images(folder)
        command = ["mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
        try:
            server = self._engine.containers.run(
                image(SERVER),
                [*command, f"--backend-store-uri={uri}"],
                detach=True,
                user=self._user,
                labels=self._labels,
                environment={"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                mounts=_mounts([folder]),
                **_LOCKED,
            )
        except DockerException as error:
            raise PipelineError(f"{image(SERVER)}: {error}; build it with `make images`") from error
        _wait_until_healthy(server, address)
        yield address

    def _exit_code(self) -> int | None:
        events = self._engine.events(
            since=self._since,
            until=int(time.time()) + _EXIT_EVENT_TIMEOUT_S,
            decode=True,
            filters={
                "type": "container",
                "event": "die",
                "label": [f"{RUN_LABEL}={self._output}", STEP_LABEL],
            },
        )
        with contextlib.closing(events):
            for event in events:
                actor = event["Actor"]
                if actor["ID"] not in self._ended:
                    self._ended.add(actor["ID"])
                    return int(actor["Attributes"]["exitCode"])
        return None

    def _remove_all(self) -> None:
        """Remove the containers of this run and of an earlier one that was killed."""
        label = f"{RUN_LABEL}={self._output}"
        for container in self._engine.containers.list(
            all=True, ignore_removed=True, filters={"label": label}
        ):
            with contextlib.suppress(NotFound):
                try:
                    container.remove(force=True)
                except APIError as error:
                    if error.status_code != HTTPStatus.CONFLICT:
                        raise
                    container.wait(condition="removed")  # the engine is removing it


def _mounts(paths: Sequence[Path], *, read_only: bool = False) -> list[Mount]:
    """Mount folders at the paths they have on this machine."""
    return [Mount(str(path), str(path), type="bind", read_only=read_only) for path in paths]


def _user_of(output: Path) -> str:
    """User and group of the steps: the caller's, or the images' own user if the caller is root.

    In the latter case the output folder is given to that user, because root may own files in it.
    """
    for name in ("pipeline", "work", FILES):
        (output / name).mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        return f"{os.geteuid()}:{os.getegid()}"
    _give_to_images(output)
    return f"{USER_ID}:{USER_ID}"


def _give_to_images(output: Path) -> None:
    """Let the images' own user write into a folder, if the caller is root."""
    if os.geteuid() != 0:
        return
    for root, folders, files in os.walk(output):
        for path in (root, *(os.path.join(root, name) for name in folders + files)):  # noqa: PTH118
            os.chown(path, USER_ID, USER_ID, follow_symlinks=False)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_healthy(server: Container, address: str) -> None:
    """Raise PipelineError with the server's last lines if it ends or does not answer in time."""
    deadline = time.monotonic() + SERVER_START_S
    while time.monotonic() < deadline:
        server.reload()
        if server.status not in ("created", "running"):
            break
        with contextlib.suppress(requests.RequestException):
            if requests.get(f"{address}/health", timeout=5).ok:
                return
        time.sleep(0.5)
    last = server.logs(tail=20).decode(errors="replace")
    raise PipelineError(f"the MLflow server at {address} did not start:\n{last}")
