"""The training graph as compiled, and its run on this machine."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler
from typer.testing import CliRunner

from pipelines.__main__ import app
from pipelines.graph.training import Artifacts, training_pipeline
from pipelines.local.run import STATE
from pipelines.local.summary import PRODUCED_BY
from product1m import __version__
from product1m.config import RUN_SECTIONS, Config, load_config, parse_config

SHARED = {"data-state": "ingestion"}
"""Task to the step whose image it runs in."""
SNAPSHOT = Path(__file__).parent / "snapshots" / "training.yaml"


def compiled(config: Config, path: Path) -> dict[str, Any]:
    compiler.Compiler().compile(training_pipeline(config), str(path))
    ir: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    return ir


@pytest.fixture(scope="module")
def ir(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return compiled(load_config("reference"), tmp_path_factory.mktemp("ir") / "training.yaml")


def structure(ir: Mapping[str, Any]) -> dict[str, Any]:
    """What a change of the graph changes, and tuning a default or a component's body does not."""
    executors = ir["deploymentSpec"]["executors"]
    tasks = {}
    for name, task in ir["root"]["dag"]["tasks"].items():
        component = ir["components"][task["componentRef"]["name"]]
        container = executors[component["executorLabel"]]["container"]
        outputs = component["outputDefinitions"]
        tasks[name] = {
            "shown as": task["taskInfo"]["name"],
            "image": container["image"].replace(__version__, "VERSION"),
            "cached": task["cachingOptions"].get("enableCache", False),
            "after": task.get("dependentTasks", []),
            "inputs": {key: source(value) for key, value in inputs_of(task).items()},
            "outputs": {
                key: value["artifactType"]["schemaTitle"]
                for key, value in outputs.get("artifacts", {}).items()
            }
            | {key: value["parameterType"] for key, value in outputs.get("parameters", {}).items()},
        }
    parameters = ir["root"]["inputDefinitions"]["parameters"]
    return {
        "name": ir["pipelineInfo"]["name"],
        "parameters": {key: value["parameterType"] for key, value in parameters.items()},
        "tasks": tasks,
        "outputs": {
            key: "{producerSubtask}.{outputArtifactKey}".format(**value["artifactSelectors"][0])
            for key, value in ir["root"]["dag"]["outputs"]["artifacts"].items()
        },
    }


def inputs_of(task: Mapping[str, Any]) -> dict[str, Any]:
    return {**task["inputs"].get("artifacts", {}), **task["inputs"].get("parameters", {})}


def source(value: Mapping[str, Any]) -> str:
    if "taskOutputArtifact" in value:
        return "{producerTask}.{outputArtifactKey}".format(**value["taskOutputArtifact"])
    if "taskOutputParameter" in value:
        return "{producerTask}.{outputParameterKey}".format(**value["taskOutputParameter"])
    return str(value["componentInputParameter"])


def test_the_graph_is_the_one_in_the_snapshot(ir: dict[str, Any]) -> None:
    found = structure(ir)
    if os.environ.get("UPDATE_SNAPSHOTS"):
        SNAPSHOT.write_text(yaml.safe_dump(found, sort_keys=True), "utf-8")
    assert found == yaml.safe_load(SNAPSHOT.read_text("utf-8")), (
        "the graph changed; if it was meant: UPDATE_SNAPSHOTS=1 pytest tests/pipelines/graph"
    )


def test_every_configuration_section_is_one_parameter_with_its_preset_as_default(
    tmp_path: Path,
) -> None:
    config = load_config(
        "sample", ["seed=3", "indexing.factory=HNSW32", "storage.root=s3://bucket/prefix"]
    )
    parameters = compiled(config, tmp_path / "ir.yaml")["root"]["inputDefinitions"]["parameters"]
    assert {parameters[name]["parameterType"] for name in RUN_SECTIONS} == {"STRUCT"}
    arrived = parse_config({name: parameters[name]["defaultValue"] for name in RUN_SECTIONS})
    for name in RUN_SECTIONS:
        assert getattr(arrived, name) == getattr(config, name)


def test_the_graph_is_straight(ir: dict[str, Any]) -> None:
    for name, task in ir["root"]["dag"]["tasks"].items():
        assert "triggerPolicy" not in task, name
        assert "parameterIterator" not in task, name
        assert "dag" not in ir["components"][task["componentRef"]["name"]], name


def test_every_image_is_the_steps_own_with_a_version(ir: dict[str, Any]) -> None:
    for name, executor in ir["deploymentSpec"]["executors"].items():
        image = executor["container"]["image"]
        step = name.removeprefix("exec-").rstrip("-0123456789")
        assert image == f"product1m/{SHARED.get(step, step)}:{__version__}"
        assert "latest" not in image
        assert "pip install" not in str(executor["container"]["command"])


def test_a_profile_sizes_every_task(tmp_path: Path) -> None:
    path = tmp_path / "ir.yaml"
    arguments = ["compile", "--profile", "gpu-1", "-o", str(path)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    executors = next(yaml.safe_load_all(path.read_text()))["deploymentSpec"]["executors"]
    asked = {name: executor["container"]["resources"] for name, executor in executors.items()}
    assert len(asked) == 12
    trainer = asked["exec-capture-pretraining"]
    assert trainer["accelerator"]["resourceType"] == "nvidia.com/gpu"
    assert trainer["accelerator"]["resourceCount"] == "1"
    assert (trainer["resourceCpuRequest"], trainer["resourceMemoryLimit"]) == ("12", "64Gi")
    assert "accelerator" not in asked["exec-ingestion"]


def test_everything_is_cached_on_the_state_of_the_data_that_is_computed_in_every_run(
    ir: dict[str, Any],
) -> None:
    tasks = ir["root"]["dag"]["tasks"]
    run_always = [name for name, task in tasks.items() if not task["cachingOptions"]]
    assert run_always == ["data-state"]
    after: set[str] = {"data-state"}
    for _ in tasks:
        after |= {
            name for name, task in tasks.items() if after & set(task.get("dependentTasks", []))
        }
    assert after == set(tasks), "nothing runs beside it"
    read = {
        (name, key, value["taskOutputParameter"]["outputParameterKey"])
        for name, task in tasks.items()
        for key, value in inputs_of(task).items()
        if value.get("taskOutputParameter", {}).get("producerTask") == "data-state"
    }
    assert read == {
        ("ingestion", "dataset_digest", "dataset_digest"),
        ("background-synthesis", "backgrounds_digest", "backgrounds_digest"),
    }


def test_without_a_profile_no_task_asks_for_anything(ir: dict[str, Any]) -> None:
    for executor in ir["deploymentSpec"]["executors"].values():
        assert "resources" not in executor["container"]


def test_compiling_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        compiled(load_config("reference"), tmp_path / f"{name}.yaml")
    assert (tmp_path / "one.yaml").read_bytes() == (tmp_path / "two.yaml").read_bytes()


def test_every_output_of_the_graph_is_verified_after_a_run(ir: dict[str, Any]) -> None:
    assert set(PRODUCED_BY) == set(Artifacts._fields) - set(STATE)
    for name, value in ir["root"]["dag"]["outputs"]["artifacts"].items():
        task = value["artifactSelectors"][0]["producerSubtask"]
        shown = ir["root"]["dag"]["tasks"][task]["taskInfo"]["name"]
        step, part = PRODUCED_BY[name]
        assert shown.replace("-", "_") in (step, f"{step}/{part}")


def test_the_compile_command_writes_the_ir_of_a_preset(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "ir.yaml"
    arguments = ["compile", "--preset", "sample", "--set", "evaluation.depth=50", "-o", str(path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    ir = next(yaml.safe_load_all(path.read_text()))
    parameters = ir["root"]["inputDefinitions"]["parameters"]
    assert parameters["evaluation"]["defaultValue"]["depth"] == 50
