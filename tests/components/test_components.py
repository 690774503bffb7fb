"""Components translate artifacts to paths and the steps work; the two worlds share nothing else."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from kfp import dsl

import components
from pipelines.graph.parameters import parameter
from product1m.artifacts.folder import open_artifact
from product1m.config import RUN_SECTIONS, STEPS, Preset, Section, load_config, section_model
from product1m.data.items import ItemTable
from tests.support.paths import ROOT
from tests.support.worlds.small_datasets import small_dataset

HEAVY = {"torch", "torchvision", "cv2", "faiss"}
NAMED_DIFFERENTLY = {
    "backgrounds": "backgrounds_uri",
    "dataset": "dataset_uri",
}
"""Parameter of a step to the component's parameter, if the names differ."""


def test_compiling_loads_nothing_that_computes(tmp_path: Path) -> None:
    script = """
import sys
from kfp import compiler
from pipelines.graph.training import training_pipeline
from product1m.config import load_config
compiler.Compiler().compile(training_pipeline(load_config("reference")), sys.argv[1])
print(sorted({name.split(".")[0] for name in sys.modules}))
"""
    out = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "ir.yaml")],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    loaded = set(ast.literal_eval(out.stdout))
    assert "kfp" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("step", STEPS)
def test_a_step_has_one_name_everywhere(step: str) -> None:
    assert getattr(components, step).name == step.replace("_", "-")
    assert (ROOT / "components" / f"{step}.py").is_file()
    assert importlib.import_module(f"product1m.steps.{step}").run


@pytest.mark.parametrize("step", STEPS)
def test_a_component_passes_every_artifact_where_the_step_expects_it(
    step: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = importlib.import_module(f"product1m.steps.{step}")
    signature = inspect.signature(module.run)
    received: dict[str, Any] = {}

    def record(*args: Any, **kwargs: Any) -> dict[str, float]:
        received.update(signature.bind(*args, **kwargs).arguments)
        return {"test/mAP@10": 0.5}

    monkeypatch.setattr(module, "run", record)
    section = getattr(load_config("sample"), step)
    function = getattr(components, step).python_func
    arguments = arguments_of(function, section, tmp_path)
    function(**arguments)
    for name, value in received.items():
        if name == "config":
            assert value == section
            assert isinstance(value, section_model(step))
        elif name == "storage_root":
            assert value == "s3://bucket/prefix"
        elif isinstance(value, Path):
            assert value == tmp_path / name
        else:
            assert value == f"value of {NAMED_DIFFERENTLY[name]}"
    assert arguments["metrics"].metadata == {"test/mAP@10": 0.5}
    assert (tmp_path / "metrics").exists(), "without it kfp.local would run the step every time"
    if "report" in arguments:
        assert (tmp_path / "copy.html").read_text() == "the report"


def arguments_of(function: Any, section: Section, folder: Path) -> dict[str, Any]:
    """Arguments as KFP passes them: every number is a float, artifacts are below `folder`."""
    known = {
        "config": {
            key: float(value) if type(value) is int else value
            for key, value in section.model_dump(mode="json").items()
        },
        "storage": {"root": "s3://bucket/prefix"},
        "training_job": {"num_nodes": 1.0, "processes_per_node": 1.0},
        "metrics": dsl.Metrics(uri=str(folder / "metrics")),
        "report": SimpleNamespace(path=str(folder / "copy.html"), metadata={}),
    }
    arguments: dict[str, Any] = {}
    for name, annotation in inspect.get_annotations(function).items():
        if name in known:
            arguments[name] = known[name]
        elif annotation is str:
            arguments[name] = f"value of {name}"
        elif name != "return":
            (folder / name).mkdir()
            for page in ("report.html", "reviewer.html"):
                (folder / name / page).write_text("the report")
            arguments[name] = SimpleNamespace(path=str(folder / name), metadata={})
    return arguments


def as_a_cluster_sends(value: Any) -> Any:
    """KFP's server sends 1.0 as 1."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: as_a_cluster_sends(inner) for key, inner in value.items()}
    return [as_a_cluster_sends(inner) for inner in value] if isinstance(value, list) else value


def as_kfp_local_sends(value: Any) -> Any:
    """kfp.local sends 1 as 1.0, and refuses None."""
    assert value is not None
    if type(value) is int:
        return float(value)
    if isinstance(value, dict):
        return {key: as_kfp_local_sends(inner) for key, inner in value.items()}
    return [as_kfp_local_sends(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("preset", get_args(Preset))
@pytest.mark.parametrize("section", RUN_SECTIONS)
def test_a_section_is_the_same_here_and_on_a_cluster(preset: Preset, section: str) -> None:
    config = load_config(preset)
    wanted, sent = getattr(config, section), parameter(config, section)
    for arrives in (as_a_cluster_sends(sent), as_kfp_local_sends(sent)):
        given = type(wanted).model_validate(arrives)
        assert given == wanted
        assert repr(given) == repr(wanted), "types as well"


def test_the_ingestion_component_ingests(tmp_path: Path) -> None:
    small_dataset(tmp_path / "data", num_items=3)
    outputs = {
        part: SimpleNamespace(path=str(tmp_path / part), metadata={})
        for part in ("train", "gallery", "queries")
    }
    metrics = dsl.Metrics(uri=str(tmp_path / "metrics"))
    config = load_config("sample").ingestion.model_dump(mode="json")
    components.ingestion.python_func(
        dataset_uri=str(tmp_path / "data"),
        dataset_digest="abc",
        config=config,
        storage={},
        metrics=metrics,
        **outputs,
    )
    table = ItemTable(open_artifact(tmp_path / "gallery", "ingestion", "gallery"))
    assert list(table.rows["id"]) == ["gallery-0", "gallery-1", "gallery-2"]
    for part, output in outputs.items():
        own = open_artifact(tmp_path / part, "ingestion", part).manifest.identity
        assert output.metadata == {"identity": own}, "not the state of the whole data set"
    assert metrics.metadata
    assert all(isinstance(value, float | int) for value in metrics.metadata.values())
