"""The container images: what is pinned, what is in them, how they may run."""

import contextlib
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
import requests
import yaml
from docker.errors import DockerException

from components.images import locked_images, read_lock
from pipelines.cli.images import PINNED, engine, pin_manifests, push_image, write_lock
from pipelines.graph.resources import USER_ID
from product1m.config import STEPS
from product1m.errors import PipelineError
from tests.support.image_locks import LOCKS, absent_modules, lock, normalized, pins
from tests.support.paths import ROOT
from tests.support.servers.engine import built_image
from tests.support.servers.ports import free_port

DOCKER = ROOT / "docker"
TARGETS = [step.replace("_", "-") for step in STEPS] + ["serving", "mlflow-server"]
CPU_STEPS = ("ingestion", "background_synthesis")
NOT_ON_LINUX = {"colorama", "tzdata"}


def test_every_step_and_the_server_have_a_target_without_an_entrypoint() -> None:
    text = (DOCKER / "Dockerfile").read_text()
    assert set(TARGETS) <= set(re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE))
    assert "ENTRYPOINT" not in text
    assert text.count(f"USER {USER_ID}:{USER_ID}") == len(TARGETS)


def test_no_address_of_an_index_is_named() -> None:
    for path in [*DOCKER.rglob("*"), ROOT / ".dockerignore"]:
        if path.is_file() and path.name != "images.lock":
            assert not re.search(r"https?://|--index|--extra-index|find-links", path.read_text())


@pytest.mark.parametrize("name", [*TARGETS, "executor", "image-tools"])
def test_a_lock_has_hashes_and_the_versions_of_requirements(name: str) -> None:
    path = LOCKS / f"{name}.txt"
    entries = re.split(
        r"\n(?=[a-z0-9])", re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE)
    )
    assert all("--hash=sha256:" in entry for entry in entries)
    everywhere = pins(ROOT / "requirements.txt")
    differing = {
        package: version
        for package, version in lock(name).items()
        if everywhere.get(package, version) != version
    }
    assert not differing, "run `make lock-images`"


def test_a_lock_holds_what_its_group_names() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]

    def names(group: str) -> set[str]:
        found = set()
        for entry in groups[group]:
            inner = names(entry["include-group"]) if isinstance(entry, dict) else {entry}
            found |= {re.split(r"[\[<>=]", name)[0] for name in inner}
        return found

    for target in TARGETS:
        assert names(target) <= set(lock(target)), "run `make lock-images`"


def test_steps_without_a_gpu_hold_no_torch_and_only_the_server_all_of_mlflow() -> None:
    for step in CPU_STEPS:
        assert not {"torch", "timm", "faiss-cpu", "scipy"} & set(lock(step.replace("_", "-")))
    for target in TARGETS[:-1]:
        assert "mlflow" not in lock(target)
        assert "mlflow-skinny" in lock(target)
    assert "mlflow" in lock("mlflow-server")


def test_registration_holds_all_that_it_writes_into_the_models_requirements() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = {re.split(r"[<>=\[]", name)[0] for name in project["dependencies"]}
    assert required <= set(lock("registration"))


@pytest.mark.parametrize("step", CPU_STEPS)
def test_a_step_without_a_gpu_starts_with_what_its_image_holds(step: str) -> None:
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent_modules(step.replace('_', '-'))}))\n"
        f"import product1m.steps.{step}, product1m.telemetry.tracking, mlflow"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_kfps_executor_needs_nothing_that_kfp_requires() -> None:
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent_modules('executor')}))\n"
        "import kfp.dsl.executor_main"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"_KFP_RUNTIME": "true"})


def test_a_written_lock_is_what_the_compiler_reads(tmp_path: Path) -> None:
    images = {step: f"registry/{step}@sha256:{'a' * 64}" for step in STEPS}
    server = f"registry/mlflow-server@sha256:{'b' * 64}"
    write_lock(
        {**images, "serving": images["indexing"], "mlflow_server": server}, tmp_path / "images.lock"
    )
    assert locked_images(tmp_path / "images.lock") == images
    assert read_lock(tmp_path / "images.lock")["mlflow_server"] == server


def test_pushed_images_are_those_that_production_names(tmp_path: Path) -> None:
    path = tmp_path / "kustomization.yaml"
    shutil.copyfile(PINNED, path)
    named = {image["name"] for image in yaml.safe_load(PINNED.read_text())["images"]}
    pushed = {
        name: f"registry:5000/team/product1m/{name.replace('_', '-')}@sha256:{'c' * 64}"
        for name in [*STEPS, "serving", "mlflow_server"]
    }
    pin_manifests(pushed, path)
    written = yaml.safe_load(path.read_text())
    assert written["kind"] == "Component"
    assert {image["name"] for image in written["images"]} == named
    for image in written["images"]:
        assert image["newName"] == f"registry:5000/team/{image['name']}"
        assert image["digest"] == f"sha256:{'c' * 64}"
        assert "newTag" not in image


def test_an_engine_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER", "no-such-docker")
    with pytest.raises(PipelineError, match=r"no-such-docker: .* install Docker"):
        engine("version")
    monkeypatch.setenv("DOCKER", "false")
    with pytest.raises(PipelineError, match="false image inspect x"):
        engine("image", "inspect", "x")


@pytest.mark.parametrize("step", [*STEPS, "serving", "mlflow_server"])
def test_a_built_image_is_described_and_starts_nothing_by_itself(step: str) -> None:
    reference = built_image(step)
    attributes = docker.from_env().images.get(reference).attrs
    config = attributes["Config"]
    environment = dict(entry.split("=", 1) for entry in config["Env"])
    labels = config["Labels"]
    assert not config["Entrypoint"]
    assert config["User"] == f"{USER_ID}:{USER_ID}"
    assert labels["org.opencontainers.image.title"] == f"product1m/{step.replace('_', '-')}"
    assert environment["PRODUCT1M_GIT_REVISION"] == labels["org.opencontainers.image.revision"]
    assert not [name for name in environment if "INDEX" in name or "TOKEN" in name]
    if step in CPU_STEPS:
        assert attributes["Size"] < 600e6


@pytest.mark.parametrize("step", CPU_STEPS)
def test_a_built_image_works_locked_and_holds_what_its_bill_lists(step: str) -> None:
    code = (
        "import json, os, product1m.steps.STEP, importlib.metadata as m;"
        "open('/tmp/x', 'w').close();"
        "bill = json.load(open('/usr/share/product1m/sbom.cdx.json'));"
        "print(json.dumps([os.getuid(),"
        " sorted(c['name'].lower() for c in bill['components']),"
        " sorted(d.metadata['Name'].lower() for d in m.distributions())]))"
    ).replace("STEP", step)
    reference = built_image(step)
    printed = docker.from_env().containers.run(
        reference,
        ["python3", "-W", "error::RuntimeWarning", "-c", code],
        remove=True,
        read_only=True,
        tmpfs={"/tmp": ""},
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        network_mode="none",
    )
    user, listed, installed = json.loads(printed)
    assert user == USER_ID
    assert listed == installed
    held = {normalized(name) for name in installed}
    assert held >= set(lock(step.replace("_", "-"))) - NOT_ON_LINUX


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """A registry of images on this machine."""
    program = shutil.which("docker-registry")
    if not program:
        pytest.skip("no docker-registry is installed")
    address = f"127.0.0.1:{free_port()}"
    settings = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "registry")}},
        "http": {"addr": address},
    }
    (tmp_path / "registry.yml").write_text(yaml.safe_dump(settings))
    with (tmp_path / "registry.log").open("w") as log:
        server = subprocess.Popen(
            [program, "serve", str(tmp_path / "registry.yml")], stdout=log, stderr=log
        )
    try:
        for _ in range(50):
            with contextlib.suppress(requests.ConnectionError):
                requests.get(f"http://{address}/v2/", timeout=5)
                break
            time.sleep(0.1)
        yield address
    finally:
        server.terminate()
        server.wait()


def test_a_pushed_image_is_locked_by_the_digest_that_the_registry_gives(
    registry: str, tmp_path: Path
) -> None:
    try:
        client = docker.from_env()
        client.ping()
    except DockerException:
        pytest.skip("no Docker engine answers")
    with tarfile.open(tmp_path / "root.tar", "w") as root:
        root.add(Path(__file__), "a-file")
    engine("import", str(tmp_path / "root.tar"), "product1m-test/small:0.1.0")
    try:
        reference = push_image("product1m-test/small:0.1.0", f"{registry}/team")
        manifest = requests.get(
            f"http://{registry}/v2/team/product1m-test/small/manifests/0.1.0",
            headers={"Accept": "application/vnd.docker.distribution.manifest.v2+json"},
            timeout=5,
        )
        digest = hashlib.sha256(manifest.content).hexdigest()
        assert reference == f"{registry}/team/product1m-test/small@sha256:{digest}"
        with pytest.raises(PipelineError, match="was pushed already; run `make images` first"):
            push_image(reference, registry)
    finally:
        client.images.remove("product1m-test/small:0.1.0", force=True)
        client.images.remove(f"{registry}/team/product1m-test/small:0.1.0", force=True)
        client.close()
