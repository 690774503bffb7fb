"""A local run's containers: what a step may see and write, how each ended, the tracking server.

The engine, not kfp.local, is asked how a step's container ended: kfp.local has the engine remove it
before it reads the exit code, and takes one that is gone for one that succeeded.
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

from components.images import LOCK, SERVER, image, locked_images
from pipelines.graph.resources import USER_ID
from product1m.errors import PipelineError

RUN_LABEL, STEP_LABEL = "product1m.run", "product1m.step"
PASSED_ON = ("AWS_", "GOMP_", "HF_", "MLFLOW_", "OMP_", "PRODUCT1M_")
"""Variables of these names are addresses, credentials and how to log; the steps get them."""
_QUIET = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
"""The server's address is gone when the run has ended."""
SERVER_START_S = 240
"""A tracking server takes up to 40 s to start on two idle cores, more on busy ones (ours)."""
_ENGINE_SAYS_WITHIN_S = 10
_LOCKED = {
    "read_only": True,
    "tmpfs": {"/tmp": ""},  # noqa: S108 the only place of its own that a container can write to
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "shm_size": "1g",
    "init": True,
    "network_mode": "host",
}
"""How every container runs; the network is the host's, where trackers and stores are found."""


@dataclass(frozen=True)
class StepImages:
    """Gives every task of a local graph the image that the lock names."""

    images: Mapping[str, str]

    @classmethod
    def locked(cls) -> "StepImages":
        """Those of docker/images.lock; PipelineError where there is none."""
        if not LOCK.is_file():
            raise PipelineError(f"{LOCK}: there is none; build the images with `make images`")
        return cls(locked_images())

    def apply(self, task: PipelineTask) -> None:
        """Set the task's image."""
        task.set_container_image(self.images[task.component_spec.name.replace("-", "_")])


class Containers:
    """The containers that work in one output folder."""

    def __init__(self, output: Path, read: Sequence[Path]) -> None:
        """Steps write below `output` alone and may read the folders `read`."""
        self._output = output
        self._read = read
        self._labels = {RUN_LABEL: str(output)}
        self._since = int(time.time())
        self._ended: set[str] = set()
        try:
            self._engine = docker.from_env()
            self._engine.ping()
        except DockerException as error:
            raise PipelineError(
                f"no Docker engine answers: {error}; start one, or run without containers"
            ) from error

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Within the block containers may run; none of this folder's is left before or after it."""
        self._remove_all()
        self._user = _user_of(self._output)
        try:
            yield
        finally:
            self._remove_all()

    def runner(self, environment: Mapping[str, str]) -> local.DockerRunner:
        """kfp.local's runner of steps."""
        passed = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
        written = [self._output / name for name in ("work", "mlflow-artifacts")]
        return local.DockerRunner(
            **_LOCKED,
            user=self._user,
            labels=self._labels | {STEP_LABEL: "true"},
            environment={**passed, **_QUIET, **environment},
            mounts=_mounts(written) + _mounts(self._read, read_only=True),
        )

    def verdict(self) -> str:
        """Why the step that ended last did not succeed; nothing if its exit code is 0."""
        code = self._exit_code()
        if code is None:
            return "the engine did not say how its container ended"
        if code == 0:
            return ""
        killed = ", killed, by the system if memory ran out" if code == 137 else ""
        return f"its container ended with exit code {code}{killed}"

    @contextlib.contextmanager
    def tracking_server(self, uri: str) -> Iterator[str]:
        """Serve an MLflow database over HTTP, which is all that a step's MLflow speaks."""
        if not uri.startswith("sqlite:"):
            yield uri
            return
        port = _free_port()
        address = f"http://127.0.0.1:{port}"
        folder = Path(uri.removeprefix("sqlite:///")).parent
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
            until=int(time.time()) + _ENGINE_SAYS_WITHIN_S,
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
        """Those of a run that was killed outright, and those of this one."""
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
                    container.wait(condition="removed")  # the engine is at it


def _mounts(paths: Sequence[Path], *, read_only: bool = False) -> list[Mount]:
    """Folders under the names that they have here."""
    return [Mount(str(path), str(path), type="bind", read_only=read_only) for path in paths]


def _user_of(output: Path) -> str:
    """Who steps run as: the caller, so that they can write; for root the images' own user.

    What root wrote into the folder before, the images' user has to be able to change.
    """
    for name in ("pipeline", "work", "mlflow-artifacts"):
        (output / name).mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        return f"{os.geteuid()}:{os.getegid()}"
    for root, folders, files in os.walk(output):
        for path in (root, *(os.path.join(root, name) for name in folders + files)):  # noqa: PTH118
            os.chown(path, USER_ID, USER_ID, follow_symlinks=False)
    return f"{USER_ID}:{USER_ID}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_healthy(server: Container, address: str) -> None:
    """PipelineError with the server's last lines if it ends or does not answer in time."""
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
