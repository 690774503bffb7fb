"""`when: drifted`: a run refreshes the catalogue and retrains only if that drifted."""

import json
from pathlib import Path
from typing import Any

import kfp_server_api as api
import pytest
import yaml
from typer.testing import CliRunner

from pipelines.__main__ import app
from pipelines.cluster.nodes import executor_ids, node_id
from pipelines.cluster.schedules import read_schedules
from pipelines.cluster.tasks import graph_of_spec, task_states
from pipelines.graph.package import Variant, package
from product1m.errors import ConfigError
from tests.support.paths import ROOT
from tests.support.servers.kfp_server import KfpServer

ENTRY = {
    "name": "nightly",
    "cron": "0 30 1 * * *",
    "preset": "sample",
    "dataset": "s3://p1m/shop",
    "backgrounds": "s3://p1m/rooms",
    "when": "drifted",
    "set": ["catalogue.max_new_share=0.2"],
}


def write(path: Path, entry: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump({"schedules": [entry]}))
    return path


@pytest.fixture(scope="module")
def compiled() -> list[dict[str, Any]]:
    """Pipeline spec and platform spec of what such a schedule runs."""
    made = package(Variant("sample", "cpu-small", kind="drift"))
    assert made.name == "product1m-drift"
    return list(yaml.safe_load_all(made.text))


def test_the_training_depends_on_what_the_refresh_says(compiled: list[dict[str, Any]]) -> None:
    spec, platform = compiled
    tasks = spec["root"]["dag"]["tasks"]
    assert set(tasks) == {"catalogue", "condition-1"}
    assert not tasks["catalogue"]["cachingOptions"].get("enableCache")
    # Before the first promotion there is nothing to refresh, and the training runs.
    required = tasks["catalogue"]["inputs"]["parameters"]["model_required"]
    assert required["runtimeValue"]["constant"] is False
    assert tasks["condition-1"]["triggerPolicy"]["condition"] == (
        "inputs.parameter_values['pipelinechannel--catalogue-drifted'] == 'true'"
    )
    training, _ = yaml.safe_load_all(package(Variant("sample", "cpu-small")).text)
    expected = training["root"]["dag"]["tasks"]
    inner = spec["components"]["comp-condition-1"]["dag"]["tasks"]
    assert {key: task["cachingOptions"] for key, task in inner.items()} == {
        key: task["cachingOptions"] for key, task in expected.items()
    }
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert len(executors) == len(expected) + 1
    accounts = {
        name: {each["secretName"] for each in executor["secretAsEnv"]}
        for name, executor in executors.items()
    }
    assert "product1m-mlflow-catalogue" in accounts.pop("exec-catalogue")
    assert all("product1m-mlflow-catalogue" not in secrets for secrets in accounts.values())


def test_a_schedule_runs_it_with_the_model_and_the_limits(
    kfp_server: KfpServer, tmp_path: Path
) -> None:
    file = write(tmp_path / "schedules.yaml", ENTRY)
    shown = CliRunner().invoke(app, ["schedule", "apply", "--file", str(file), "--yes"])
    assert shown.exit_code == 0, shown.output
    assert "sample if the catalogue drifted from models:/product1m@champion" in shown.output
    (pipeline,) = kfp_server.world.pipelines.values()
    assert pipeline.display_name == "product1m-drift"
    (recurring,) = kfp_server.world.schedules.values()
    parameters = recurring.runtime_config.parameters
    assert parameters["model"] == "models:/product1m@champion"
    assert parameters["backgrounds_uri"] == "s3://p1m/rooms"
    assert parameters["catalogue"]["max_new_share"] == 0.2
    again = CliRunner().invoke(app, ["schedule", "apply", "--file", str(file)])
    assert "nothing to do" in again.output


def test_drifted_and_no_cache_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cache: false runs every task"):
        read_schedules(write(tmp_path / "schedules.yaml", ENTRY | {"cache": False}))


def test_nodes_below_a_condition_are_named_as_a_real_cluster_names_them() -> None:
    nodes = json.loads((ROOT / "tests/recordings/condition/nodes.json").read_text("utf-8"))
    by_name = {node["display_name"]: node for node in nodes}
    workflow = "features-ok-9fxbc"
    place = f"{workflow}(0).root(0).condition-branches-2(0).condition-3(0).total-2(0)"
    (attempt,) = by_name["executor"]["child_tasks"]
    assert attempt["pod_name"] == node_id(workflow, f"{place}.executor(0)")
    (retry,) = by_name["total-2(0)"]["child_tasks"]
    assert retry["pod_name"] == node_id(workflow, f"{place}.executor")
    assert by_name["condition-4"]["state"] == "SKIPPED"
    assert "child_tasks" not in by_name["condition-4"]


def details(*nodes: tuple[str, str, list[str]]) -> api.V2beta1Run:
    """A run that succeeded, with nodes of a name, a state and the ids of their children."""
    made = [
        api.V2beta1PipelineTaskDetail(
            display_name=name,
            state=state,
            child_tasks=[api.PipelineTaskDetailChildTask(pod_name=each) for each in children],
        )
        for name, state, children in nodes
    ]
    run_details = api.V2beta1RunDetails(task_details=made)
    return api.V2beta1Run(state="SUCCEEDED", run_details=run_details)


def test_tasks_that_no_drift_made_necessary_are_shown_as_skipped(
    compiled: list[dict[str, Any]],
) -> None:
    graph = graph_of_spec(compiled[0])
    assert list(graph.values())[:3] == ["catalogue", "data_state", "ingestion"]
    assert len(graph) == 13
    attempt = node_id("w", "w(0).root(0).catalogue(0).executor(0)")
    run = details(
        ("catalogue(0)", "SUCCEEDED", []),
        ("catalogue", "SUCCEEDED", []),
        ("executor", "SUCCEEDED", [attempt]),
        ("condition-1-driver", "SUCCEEDED", []),
        ("condition-1", "SKIPPED", []),
    )
    states = {task.name: task.state for task in task_states(run, graph)}
    assert states.pop("catalogue") == "SUCCEEDED"
    assert set(states.values()) == {"SKIPPED"}


def test_tasks_below_the_condition_are_told_apart_from_those_of_the_cache(
    compiled: list[dict[str, Any]],
) -> None:
    place = "w(0).root(0).condition-1(0)"
    attempts = executor_ids("w", "rpn-training", ("condition-1",))
    attempt = node_id("w", f"{place}.rpn-training(0).executor(1)")
    assert attempts[attempt] == 1
    run = details(
        ("condition-1", "SUCCEEDED", [node_id("w", place)]),
        ("rpn-training(0)", "SUCCEEDED", []),
        ("rpn-training", "SUCCEEDED", []),
        ("executor", "SUCCEEDED", [attempt]),
        ("ingestion", "SUCCEEDED", []),
    )
    states = {task.name: task.state for task in task_states(run, graph_of_spec(compiled[0]))}
    assert (states["rpn_training"], states["ingestion"]) == ("SUCCEEDED", "CACHED")
