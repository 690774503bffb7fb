"""`python -m pipelines images`: build the images of docker/Dockerfile, lock them, push them.

An image here has no digest of a registry yet, so it is tagged with its own content's id:
`product1m/indexing:0.1.0-8f3a12c04d55` is never another image. `push` replaces that by a digest.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from components.images import LOCK, SERVER, image
from product1m.cli.app import new_app
from product1m.config import STEPS
from product1m.errors import PipelineError
from product1m.telemetry.provenance import git_revision

ROOT = Path(__file__).parent.parent.parent
SBOM = "/usr/share/product1m/sbom.cdx.json"
"""Where an image keeps its bill of materials."""

app = new_app("The container images: build, lock, push.")


@dataclass(frozen=True)
class Built:
    """An image of this machine."""

    step: str
    reference: str
    """Tag that holds the image's id."""
    num_bytes: int
    """Unpacked, layers shared with other images included."""
    seconds: float


@app.command(epilog="Example: `python -m pipelines images build --base-image debian-python:12`")
def build(
    base_image: Annotated[
        str, typer.Option(envvar="BASE_IMAGE", help="Has python3.11; default: the Dockerfile's.")
    ] = "",
    options: Annotated[
        str,
        typer.Option(
            envvar="BUILD_OPTIONS",
            help="More for `docker build`, as in `--secret id=uv,src=uv.toml --network host`.",
        ),
    ] = "",
    output: Annotated[Path, typer.Option(help="Folder for logs, SBOMs and sizes.")] = Path("build"),
) -> None:
    """Build every image and write docker/images.lock and a CycloneDX SBOM of each."""
    arguments = [f"--build-arg=BASE_IMAGE={base_image}"] if base_image else []
    arguments += [f"--build-arg=REVISION={git_revision()}", *shlex.split(options)]
    built = [_build(step, arguments, output) for step in (*STEPS, SERVER)]
    write_lock({one.step: one.reference for one in built})
    table = {one.step: {"MB": one.num_bytes / 1e6, "seconds": one.seconds} for one in built}
    (output / "images.json").write_text(json.dumps(table, indent=2), "utf-8")


@app.command(epilog="Example: `python -m pipelines images push registry.example.com/team`")
def push(
    registry: Annotated[str, typer.Argument(help="Registry, with a path if need be.")],
) -> None:
    """Push the images that docker/images.lock names and lock the digests the registry gives."""
    if not registry:
        raise PipelineError("no registry is named; `make push REGISTRY=registry.example.com/team`")
    local = json.loads(_lock_text())
    pushed = {step: push_image(reference, registry) for step, reference in local.items()}
    server = _tagged_with_id(image(SERVER))
    print(f"{SERVER}  {push_image(server, registry)}")
    write_lock(pushed)


def write_lock(images: dict[str, str], lock: Path = LOCK) -> None:
    """Step to image; the server is no step, manifests name it."""
    steps = {step: reference for step, reference in images.items() if step in STEPS}
    lock.write_text(json.dumps(steps, indent=2) + "\n", "utf-8")
    for step, reference in steps.items():
        print(f"{step:20}  {reference}")


def engine(*arguments: str) -> str:
    """What a `docker` command prints; PipelineError with what it complained about."""
    command = [os.environ.get("DOCKER", "docker"), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise PipelineError(
            f"{command[0]}: {error.strerror}; install Docker with BuildKit"
        ) from None
    if done.returncode:
        raise PipelineError(f"{shlex.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()


def _build(step: str, arguments: Sequence[str], output: Path) -> Built:
    target = step.replace("_", "-")
    log = output / "images" / f"{target}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [
        *(os.environ.get("DOCKER", "docker"), "build", "--progress=plain", f"--target={target}"),
        *("--file=docker/Dockerfile", f"--tag={image(step)}", *arguments, "."),
    ]
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=file, stderr=file, check=False
        )
    seconds = time.monotonic() - started
    if done.returncode:
        tail = "\n".join(log.read_text("utf-8").splitlines()[-20:])
        raise PipelineError(f"{target} was not built:\n{tail}\nThe whole output: {log}")
    reference = _tagged_with_id(image(step))
    _copy_out(reference, SBOM, output / "sbom" / f"{target}.json")
    num_bytes = int(engine("image", "inspect", "--format={{.Size}}", reference))
    print(f"{step:20}  {num_bytes / 1e6:7.0f} MB  {seconds:6.1f} s", file=sys.stderr)
    return Built(step, reference, num_bytes, seconds)


def _tagged_with_id(tag: str) -> str:
    """The image's tag of its own: the given one and the start of its id."""
    identity = engine("image", "inspect", "--format={{.Id}}", tag).removeprefix("sha256:")
    reference = f"{tag}-{identity[:12]}"
    engine("tag", tag, reference)
    return reference


def _copy_out(reference: str, path: str, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    container = engine("create", reference, "true")
    try:
        engine("cp", f"{container}:{path}", str(to))
    finally:
        engine("rm", container)


def push_image(reference: str, registry: str) -> str:
    """The image's name in the registry with the digest it got there."""
    if "@" in reference:
        raise PipelineError(f"{LOCK}: {reference} was pushed before; run `make images` first")
    remote = f"{registry.rstrip('/')}/{reference}"
    engine("tag", reference, remote)
    engine("push", remote)
    repository = remote.rpartition(":")[0]
    for name in engine("image", "inspect", '--format={{join .RepoDigests "\\n"}}', remote).split():
        if name.startswith(f"{repository}@"):
            return name
    raise PipelineError(f"{remote}: the registry gave no digest for it")


def _lock_text() -> str:
    try:
        return LOCK.read_text("utf-8")
    except FileNotFoundError:
        raise PipelineError(f"{LOCK}: there is none; run `make images` first") from None
