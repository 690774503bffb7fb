"""`python -m pipelines images`: build, lock and push the images of docker/Dockerfile.

A local image has no registry digest yet, so its tag holds the id of its content:
`product1m/indexing:0.1.0-8f3a12c04d55` always names the same image. `push` replaces the tag in the
lock by a digest.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
import yaml

from product1m.cli.next_steps import say_next
from product1m.cli.options import new_app
from product1m.config import STEPS
from product1m.errors import PipelineError
from product1m.telemetry.provenance import git_revision

ROOT = Path(__file__).parent.parent.parent
PINNED = ROOT / "manifests" / "overlays" / "production" / "images" / "kustomization.yaml"
"""The images of the production overlay."""
SBOM = "/usr/share/product1m/sbom.cdx.json"
"""Path of the bill of materials inside an image."""

_BUILDX = (
    "This Docker client lacks buildx, which builds the images: install the package docker-buildx "
    "or docker-buildx-plugin, or name a client that has it: DOCKER=…\n"
)

app = new_app("Build, lock and push the container images.")


@dataclass(frozen=True)
class BuiltImage:
    """An image on this machine."""

    step: str
    reference: str
    """Name with a tag that holds the image's id."""
    num_bytes: int
    """Unpacked, including layers shared with other images."""
    seconds: float


@app.command(epilog="Example: `python -m pipelines images build --base-image debian-python:12`")
def build(
    base_image: Annotated[
        str,
        typer.Option(
            envvar="BASE_IMAGE", help="Image with python3.11; default: see the Dockerfile."
        ),
    ] = "",
    options: Annotated[
        str,
        typer.Option(
            envvar="BUILD_OPTIONS",
            help="More options for `docker build`, for example "
            "`--secret id=uv,src=uv.toml --network host`.",
        ),
    ] = "",
    output: Annotated[Path, typer.Option(help="Folder for logs, SBOMs and sizes.")] = Path("build"),
) -> None:
    """Build every image; write docker/images.lock and a CycloneDX SBOM for each image."""
    from components.images import SERVER, SERVING

    arguments = [f"--build-arg=BASE_IMAGE={base_image}"] if base_image else []
    arguments += [f"--build-arg=REVISION={git_revision()}", *shlex.split(options)]
    built = [_build(step, arguments, output) for step in (*STEPS, SERVER, SERVING)]
    write_lock({image.step: image.reference for image in built})
    table = {image.step: {"MB": image.num_bytes / 1e6, "seconds": image.seconds} for image in built}
    (output / "images.json").write_text(json.dumps(table, indent=2), "utf-8")
    say_next(
        "`python -m pipelines images push REGISTRY`, or here: "
        "`python -m pipelines run --runner docker --dataset DIR --output build/in-containers`"
    )


@app.command(epilog="Example: `python -m pipelines images push registry.example.com/team`")
def push(
    registry: Annotated[str, typer.Argument(help="Registry, with a path if needed.")],
) -> None:
    """Push the images in docker/images.lock and lock the digests that the registry returns."""
    from components.images import LOCK, SERVER, SERVING, read_lock

    if not registry:
        raise PipelineError("no registry given; run `make push REGISTRY=registry.example.com/team`")
    local = read_lock()
    if missing := {SERVER, SERVING} - local.keys():
        raise PipelineError(f"{LOCK}: does not name {min(missing)}; run `make images` first")
    pushed = {name: push_image(str(reference), registry) for name, reference in local.items()}
    write_lock(pushed)
    pin_manifests(pushed)
    say_next("`kubectl apply -k manifests/overlays/production` (manifests/README.md)")


def write_lock(images: dict[str, str], lock: Path | None = None) -> None:
    """Write the images of the steps and of the two servers to docker/images.lock."""
    from components.images import LOCK

    (lock or LOCK).write_text(json.dumps(images, indent=2) + "\n", "utf-8")
    for name, reference in images.items():
        print(f"{name:20}  {reference}")


def pin_manifests(pushed: Mapping[str, str], path: Path = PINNED) -> None:
    """Let the production overlay name the pushed images, by digest."""
    images = yaml.safe_load(path.read_text("utf-8"))
    comment = path.read_text("utf-8").partition("apiVersion:")[0]
    for entry in images["images"]:
        name, _, digest = pushed[entry["name"].rpartition("/")[2].replace("-", "_")].partition("@")
        entry.pop("newTag", None)
        entry |= {"newName": name, "digest": digest}
    path.write_text(comment + yaml.safe_dump(images, sort_keys=False), "utf-8")
    print(f"{path}: names these images")


def engine(*arguments: str) -> str:
    """Run a `docker` command and return its output; PipelineError with its error message."""
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


def _build(step: str, arguments: Sequence[str], output: Path) -> BuiltImage:
    from components.images import image

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
        advice = _BUILDX if "buildx" in tail else ""
        raise PipelineError(f"building {target} failed:\n{tail}\n{advice}Full output: {log}")
    reference = _tagged_with_id(image(step))
    _copy_out(reference, SBOM, output / "sbom" / f"{target}.json")
    num_bytes = int(engine("image", "inspect", "--format={{.Size}}", reference))
    print(f"{step:20}  {num_bytes / 1e6:7.0f} MB  {seconds:6.1f} s", file=sys.stderr)
    return BuiltImage(step, reference, num_bytes, seconds)


def _tagged_with_id(tag: str) -> str:
    """Add a tag made of the given one and the start of the image's id; return it."""
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
    """Push an image; return its name in the registry with its digest."""
    from components.images import LOCK

    if "@" in reference:
        raise PipelineError(f"{LOCK}: {reference} was pushed already; run `make images` first")
    remote = f"{registry.rstrip('/')}/{reference}"
    engine("tag", reference, remote)
    engine("push", remote)
    repository = remote.rpartition(":")[0]
    for name in engine("image", "inspect", '--format={{join .RepoDigests "\\n"}}', remote).split():
        if name.startswith(f"{repository}@"):
            return name
    raise PipelineError(f"{remote}: the registry returned no digest")
