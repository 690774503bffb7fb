"""What a cluster is given: images by digest, platform settings, versions named by revision."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from components.images import image, locked_images
from pipelines.__main__ import app
from pipelines.graph.package import Package, Variant, package
from pipelines.graph.resources import NUM_RETRIES, PROFILES, Profile
from product1m import __version__
from product1m.config import STEPS
from product1m.errors import PipelineError

DIGEST = "sha256:" + "5f" * 32
TASKS_OF_FEATURES = [f"exec-feature-extraction{suffix}" for suffix in ("", "-2", "-3", "-4")]


def executors(made: Package) -> dict[str, dict[str, Any]]:
    """Executor to its container and its platform settings, read from the compiled text."""
    ir, platform = yaml.safe_load_all(made.text)
    settings = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    tasks = {
        ir["components"][task["componentRef"]["name"]]["executorLabel"]: task
        for task in ir["root"]["dag"]["tasks"].values()
    }
    return {
        name: {"container": spec["container"], "task": tasks[name], **settings[name]}
        for name, spec in ir["deploymentSpec"]["executors"].items()
    }


@pytest.fixture(scope="module", params=["cpu-small", "gpu-1", "gpu-8"])
def profile(request: pytest.FixtureRequest) -> Profile:
    chosen: Profile = request.param
    return chosen


@pytest.fixture(scope="module")
def found(profile: Profile) -> dict[str, dict[str, Any]]:
    return executors(package(Variant("reference", profile)))


def step_of(executor: str) -> str:
    return executor.removeprefix("exec-").rstrip("-0123456789").replace("-", "_")


def test_every_task_gets_what_its_profile_says(
    found: dict[str, dict[str, Any]], profile: Profile
) -> None:
    assert {step_of(name) for name in found} == set(STEPS)
    assert set(TASKS_OF_FEATURES) <= set(found)
    for name, settings in found.items():
        wanted, asked = PROFILES[profile][step_of(name)], settings["container"]["resources"]
        assert asked["resourceCpuRequest"] == asked["resourceCpuLimit"] == wanted.cpu
        assert asked["resourceMemoryRequest"] == asked["resourceMemoryLimit"] == wanted.memory
        assert settings["activeDeadlineSeconds"] == str(wanted.timeout_s)
        assert settings["emptyDirMounts"] == [
            {
                "volumeName": "shm",
                "mountPath": "/dev/shm",
                "medium": "Memory",
                "sizeLimit": wanted.shared_memory,
            }
        ]


def test_gpus_are_asked_for_and_their_taint_tolerated(
    found: dict[str, dict[str, Any]], profile: Profile
) -> None:
    gpus = {
        name: settings["container"]["resources"]["accelerator"]["resourceCount"]
        for name, settings in found.items()
        if "accelerator" in settings["container"]["resources"]
    }
    for name, settings in found.items():
        tolerated = [toleration["key"] for toleration in settings.get("tolerations", [])]
        assert tolerated == (["nvidia.com/gpu"] if name in gpus else [])
    trainers = ["exec-rpn-training", "exec-capture-pretraining"]
    one_gpu = [*TASKS_OF_FEATURES, "exec-indexing", "exec-evaluation"]
    assert (
        gpus
        == {
            "cpu-small": {},
            "gpu-1": dict.fromkeys([*trainers, *one_gpu], "1"),
            "gpu-8": {**dict.fromkeys(trainers, "8"), **dict.fromkeys(one_gpu, "1")},
        }[profile]
    )


def test_shared_memory_leaves_room_for_the_step() -> None:
    for steps in PROFILES.values():
        for resources in steps.values():
            shared, memory = (
                int(size.removesuffix("Gi")) for size in (resources.shared_memory, resources.memory)
            )
            assert shared <= memory / 4, "it counts towards the memory limit"


def test_tasks_are_retried_with_growing_pauses(found: dict[str, dict[str, Any]]) -> None:
    for settings in found.values():
        assert settings["task"]["retryPolicy"] == {
            "maxRetryCount": NUM_RETRIES,
            "backoffDuration": "60s",
            "backoffFactor": 2.0,
            "backoffMaxDuration": "1800s",
        }


def test_tasks_run_as_a_user_without_rights(found: dict[str, dict[str, Any]]) -> None:
    for settings in found.values():
        context = settings["securityContext"]
        assert context["runAsNonRoot"] is True
        assert int(context["runAsUser"]) > 0
        assert settings["imagePullPolicy"] == "IfNotPresent"


def test_addresses_and_credentials_come_by_reference(found: dict[str, dict[str, Any]]) -> None:
    for settings in found.values():
        secrets = {
            (entry["secretName"], key["secretKey"], key["envVar"], entry["optional"])
            for entry in settings["secretAsEnv"]
            for key in entry["keyToEnv"]
        }
        assert secrets == {
            ("product1m-mlflow", name, name, False)
            for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
        } | {
            ("product1m-s3", name, name, True)
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        }
        maps = {
            (entry["configMapName"], key["configMapKey"], entry["optional"])
            for entry in settings["configMapAsEnv"]
            for key in entry["keyToEnv"]
        }
        assert ("product1m", "MLFLOW_TRACKING_URI", False) in maps
        literal = {entry["name"]: entry["value"] for entry in settings["container"]["env"]}
        assert literal == {
            "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "true",
            "PRODUCT1M_IMAGE": settings["container"]["image"],
        }


def test_a_pod_knows_its_run_and_bears_labels(found: dict[str, dict[str, Any]]) -> None:
    for name, settings in found.items():
        assert settings["fieldPathAsEnv"] == [
            {"name": "PRODUCT1M_PIPELINE_RUN", "fieldPath": "metadata.labels['pipeline/runid']"}
        ]
        labels = settings["podMetadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "product1m"
        assert labels["app.kubernetes.io/component"] == step_of(name).replace("_", "-")
        assert labels["app.kubernetes.io/version"] == __version__


def test_a_work_volume_is_mounted_where_training_keeps_checkpoints() -> None:
    with_volume = executors(package(Variant("reference", "gpu-1", work_volume="work")))
    for name, settings in with_volume.items():
        environment = {entry["name"]: entry["value"] for entry in settings["container"]["env"]}
        if name in ("exec-rpn-training", "exec-capture-pretraining"):
            (mount,) = settings["pvcMount"]
            assert (mount["constant"], mount["mountPath"]) == ("work", "/work")
            assert environment["PRODUCT1M_WORK"] == "/work"
        else:
            assert "pvcMount" not in settings
            assert "PRODUCT1M_WORK" not in environment


def test_without_a_cache_every_task_always_runs() -> None:
    cached = executors(package(Variant("sample")))
    uncached = executors(package(Variant("sample", cache=False)))
    assert all(one["task"]["cachingOptions"] == {"enableCache": True} for one in cached.values())
    assert not any(one["task"]["cachingOptions"].get("enableCache") for one in uncached.values())


def lock(folder: Path, **changed: str | None) -> Path:
    images = {step: f"registry.example/p1m/{step.replace('_', '-')}@{DIGEST}" for step in STEPS}
    images |= {step: value for step, value in changed.items() if value is not None}
    for step, value in changed.items():
        if value is None:
            del images[step]
    path = folder / "images.lock"
    path.write_text(yaml.safe_dump(images))
    return path


def test_images_come_from_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = lock(tmp_path)
    monkeypatch.setattr("pipelines.graph.package.locked_images", lambda: locked_images(path))
    for name, settings in executors(package(Variant("sample"))).items():
        wanted = f"registry.example/p1m/{step_of(name).replace('_', '-')}@{DIGEST}"
        assert settings["container"]["image"] == wanted


def test_without_a_lock_images_bear_the_version(tmp_path: Path) -> None:
    assert locked_images(tmp_path / "none") == {step: image(step) for step in STEPS}


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("p1m/indexing:latest", "`latest` is another image tomorrow"),
        (f"p1m/indexing:latest@{DIGEST}", "`latest` is another image tomorrow"),
        ("p1m/indexing", "it has neither digest nor tag"),
        ("registry.example:5000/p1m/indexing", "it has neither digest nor tag"),
        ("p1m/indexing@sha256:abc", "it has neither digest nor tag"),
    ],
)
def test_an_image_that_can_change_is_refused(tmp_path: Path, reference: str, reason: str) -> None:
    with pytest.raises(PipelineError, match=f"indexing: '.*': {reason}; .*`make images`"):
        locked_images(lock(tmp_path, indexing=reference))


def test_a_lock_that_does_not_fit_the_steps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"images\.lock: no image of indexing"):
        locked_images(lock(tmp_path, indexing=None))
    with pytest.raises(PipelineError, match="an image of the unknown step serving"):
        locked_images(lock(tmp_path, serving=f"p1m/serving@{DIGEST}"))
    (tmp_path / "images.lock").write_text("- a list")
    with pytest.raises(PipelineError, match="expected a mapping of step to image"):
        locked_images(tmp_path / "images.lock")


def test_manifests_are_a_pipeline_and_a_version_with_the_platform_spec(tmp_path: Path) -> None:
    path = tmp_path / "versions.yaml"
    arguments = ["compile", "--format", "manifests", "--namespace", "p1m", "-o", str(path)]
    result = CliRunner().invoke(app, [*arguments, "--preset", "sample"])
    assert result.exit_code == 0, result.output
    pipeline, version = yaml.safe_load_all(path.read_text())
    assert [pipeline["kind"], version["kind"]] == ["Pipeline", "PipelineVersion"]
    assert pipeline["apiVersion"] == version["apiVersion"] == "pipelines.kubeflow.org/v2beta1"
    assert version["metadata"]["namespace"] == "p1m"
    assert version["spec"]["pipelineName"] == pipeline["metadata"]["name"] == "product1m-training"
    ir, platform = yaml.safe_load_all(package(Variant("sample")).text)
    assert version["spec"]["pipelineSpec"] == ir
    assert version["spec"]["platformSpec"] == platform
    name = version["metadata"]["name"]
    assert name in result.output
    revision = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout
    if revision:
        assert name.startswith(f"git-{revision[:12]}-")


def test_a_version_is_named_by_revision_and_content(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRODUCT1M_GIT_REVISION", "0123456789abcdef0123")
    made, again = package(Variant("sample")), package(Variant("sample"))
    assert made.version == again.version
    assert made.version.startswith("git-0123456789ab-")
    assert package(Variant("sample", "gpu-1")).version != made.version
    monkeypatch.setenv("PRODUCT1M_GIT_REVISION", "0123456789abcdef0123+changes")
    assert package(Variant("sample")).version.startswith("git-0123456789ab-changed-")
    monkeypatch.setenv("PRODUCT1M_GIT_REVISION", "unknown")
    assert package(Variant("sample")).version.startswith("no-git-")


def test_another_process_compiles_the_same_to_the_byte(tmp_path: Path) -> None:
    texts = set()
    for name in ("one.yaml", "two.yaml"):
        command = [sys.executable, "-m", "pipelines", "compile", "-o", str(tmp_path / name)]
        subprocess.run(command, check=True, capture_output=True)
        texts.add((tmp_path / name).read_bytes())
    assert len(texts) == 1
