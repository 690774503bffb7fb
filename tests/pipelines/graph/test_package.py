"""What a cluster is given: images by digest, platform settings, versions named by revision."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from typer.testing import CliRunner

from components.images import SHARED, image, locked_images
from pipelines.__main__ import app
from pipelines.cluster.schedules import Schedule
from pipelines.graph.package import Package, Variant, package
from pipelines.graph.resources import NUM_RETRIES, PROFILES, Profile
from product1m import __version__
from product1m.config import STEPS, Preset
from product1m.errors import ConfigError, PipelineError

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


@pytest.fixture(scope="module", params=["laptop", "cpu-small", "gpu-1", "gpu-8"])
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
    assert {step_of(name) for name in found} == {*STEPS, "data_state"}
    assert set(TASKS_OF_FEATURES) <= set(found)
    for name, settings in found.items():
        wanted, asked = PROFILES[profile][step_of(name)], settings["container"]["resources"]
        assert (asked["resourceCpuLimit"], asked["resourceMemoryLimit"]) == (
            wanted.cpu,
            wanted.memory,
        )
        requests = (asked["resourceCpuRequest"], asked["resourceMemoryRequest"])
        small = ("100m", "512Mi") if profile == "laptop" else (wanted.cpu, wanted.memory)
        assert requests == (("100m", "256Mi") if name == "exec-data-state" else small)
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
            "laptop": {},
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


def test_lost_pods_are_started_again_with_growing_pauses(
    found: dict[str, dict[str, Any]],
) -> None:
    for settings in found.values():
        assert settings["task"]["retryPolicy"] == {
            "maxRetryCount": NUM_RETRIES,
            "backoffDuration": "10s",
            "backoffFactor": 2.0,
            "backoffMaxDuration": "300s",
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
        assert maps == {
            ("product1m", "MLFLOW_TRACKING_URI", False),
            ("product1m", "MLFLOW_EXPERIMENT_NAME", False),
            ("product1m", "AWS_ENDPOINT_URL", True),
            ("product1m", "AWS_DEFAULT_REGION", True),
        }
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
    always = [name for name, executor in cached.items() if not executor["task"]["cachingOptions"]]
    assert always == ["exec-data-state"]
    assert not any(
        executor["task"]["cachingOptions"].get("enableCache") for executor in uncached.values()
    )


def test_a_run_on_two_nodes_is_compiled_alike_for_compile_submit_and_a_schedule(
    tmp_path: Path,
) -> None:
    overrides = ("training_job.num_nodes=2", "evaluation.depth=50")
    wanted = Variant("reference", "gpu-8", work_volume="work", overrides=overrides)
    path = tmp_path / "training.yaml"
    arguments = ["compile", "--profile", "gpu-8", "--work-volume", "work", "-o", str(path)]
    for override in overrides:
        arguments += ["--set", override]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    schedule = Schedule.model_validate(
        {
            "name": "two-nodes",
            "cron": "0 0 3 * * 1",
            "dataset": "s3://p1m/lists",
            "profile": "gpu-8",
            "work_volume": "work",
            "set": list(overrides),
        }
    )
    assert schedule.variant == wanted.for_run()
    assert schedule.parameters()["evaluation"]["depth"] == 50
    assert wanted.run_parameters().keys() == {"evaluation"}, "the rest is compiled in"
    for text in (path.read_text(), package(wanted.for_run()).text):
        ir, _ = yaml.safe_load_all(text)
        training = ir["deploymentSpec"]["executors"]["exec-capture-pretraining"]["container"]
        assert "accelerator" not in training["resources"], "the step only follows the nodes"
        assert training["resources"]["resourceCpuLimit"] == "1"
        job = ir["root"]["inputDefinitions"]["parameters"]["training_job"]["defaultValue"]
        assert (job["num_nodes"], job["processes_per_node"]) == (2, 8)
        node = {"cpu": "96", "memory": "512Gi", "nvidia.com/gpu": "8"}
        assert job["node_resources"] == node


@pytest.mark.parametrize(
    ("profile", "given", "processes", "resources"),
    [
        ("cpu-small", (), 1, {"cpu": "2", "memory": "6Gi"}),
        ("gpu-1", (), 1, {"cpu": "12", "memory": "64Gi", "nvidia.com/gpu": "1"}),
        (
            "gpu-8",
            ("training_job.node_resources={cpu: '8', amd.com/gpu: '4'}",),
            8,
            {"cpu": "8", "amd.com/gpu": "4"},
        ),
        ("gpu-8", ("training_job.processes_per_node=4",), 4, None),
    ],
)
def test_the_profile_decides_what_a_node_requests_unless_it_is_given(
    profile: Profile, given: tuple[str, ...], processes: int, resources: dict[str, str] | None
) -> None:
    job = Variant("reference", profile, overrides=given).configuration().training_job
    assert job.processes_per_node == processes
    if resources is not None:
        assert job.node_resources == resources


def test_a_run_passes_only_the_sections_that_differ_from_the_preset() -> None:
    run = Variant("sample", overrides=("indexing.factory=HNSW32",)).run_parameters()
    assert run.keys() == {"indexing"}
    assert run["indexing"]["factory"] == "HNSW32"
    assert Variant("sample").run_parameters() == {}


class Yaml12(yaml.SafeLoader):
    """Reads plain values by the core schema of YAML 1.2, as KFP's server does."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 as PyYAML has it


for tag, pattern in {
    "null": "~|null|Null|NULL|",
    "bool": "true|True|TRUE|false|False|FALSE",
    "int": "[-+]?[0-9]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?",
}.items():
    Yaml12.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"({pattern})$"), None)


@pytest.mark.parametrize("text", ["12e3", "1e5", "-4E2", "017", "0o17", "1_000", "y", "N", "1."])
def test_text_that_looks_like_a_number_reaches_the_server_as_text(text: str) -> None:
    made = package(Variant("sample", overrides=(f"storage.root='{text}'",)))
    read, _ = yaml.load_all(made.text, Yaml12)
    defaults = read["root"]["inputDefinitions"]["parameters"]
    assert defaults["storage"]["defaultValue"] == {"root": text}
    assert repr(text) in made.text, "quoted, so that no reader has to guess"


def test_a_preset_is_the_same_to_readers_of_yaml_1_1_and_1_2() -> None:
    for preset in get_args(Preset):
        text = package(Variant(preset)).text
        assert list(yaml.load_all(text, Yaml12)) == list(yaml.safe_load_all(text))


@pytest.mark.parametrize("number", [2**53 + 1, 10**17 + 1])
def test_a_whole_number_that_a_cluster_would_round_is_refused(number: int) -> None:
    overrides = (f"seed={number}",)
    with pytest.raises(ConfigError, match=rf"ingestion\.seed: {number} is larger than 2\*\*53"):
        Variant("sample", overrides=overrides).run_parameters()
    with pytest.raises(ConfigError, match="a cluster would round it"):
        package(Variant("sample", overrides=overrides))


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
        step = SHARED.get(step_of(name), step_of(name))
        wanted = f"registry.example/p1m/{step.replace('_', '-')}@{DIGEST}"
        assert settings["container"]["image"] == wanted


def test_without_a_lock_images_bear_the_version(tmp_path: Path) -> None:
    assert locked_images(tmp_path / "none") == {step: image(step) for step in STEPS}


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("p1m/indexing:latest", "`latest` may be another image tomorrow"),
        (f"p1m/indexing:latest@{DIGEST}", "`latest` may be another image tomorrow"),
        ("p1m/indexing", "it has neither a digest nor a tag"),
        ("registry.example:5000/p1m/indexing", "it has neither a digest nor a tag"),
        ("p1m/indexing@sha256:abc", "it has neither a digest nor a tag"),
    ],
)
def test_an_image_that_can_change_is_refused(tmp_path: Path, reference: str, reason: str) -> None:
    with pytest.raises(PipelineError, match=f"indexing: '.*': {reason}; .*`make images`"):
        locked_images(lock(tmp_path, indexing=reference))


def test_a_lock_that_does_not_fit_the_steps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"images\.lock: no image for indexing"):
        locked_images(lock(tmp_path, indexing=None))
    with pytest.raises(PipelineError, match="an image for the unknown step painting"):
        locked_images(lock(tmp_path, painting=f"p1m/painting@{DIGEST}"))
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
