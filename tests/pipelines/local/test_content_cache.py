"""What runs again when one part of a step's result changes."""

from pathlib import Path
from typing import NamedTuple

from kfp import dsl

from pipelines.local.kfp_local import run_graph
from pipelines.local.mlflow_run import start_run
from pipelines.local.run import cache_name


@dsl.component(base_image="product1m/test:1", install_kfp_package=False)
def read_lists(
    lists: str, train: dsl.Output[dsl.Dataset], queries: dsl.Output[dsl.Dataset]
) -> None:
    from pathlib import Path

    for content, written in zip(lists, (train, queries), strict=True):
        Path(written.path).write_text(content)
        written.metadata["identity"] = content


@dsl.component(base_image="product1m/test:1", install_kfp_package=False)
def learn(train: dsl.Input[dsl.Dataset], model: dsl.Output[dsl.Model]) -> None:
    from pathlib import Path

    Path(model.path).write_text(f"model of {Path(train.path).read_text()}")


@dsl.component(base_image="product1m/test:1", install_kfp_package=False)
def measure(
    queries: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    measured: dsl.Output[dsl.Dataset],
) -> None:
    from pathlib import Path

    answer = f"{Path(model.path).read_text()} on {Path(queries.path).read_text()}"
    Path(measured.path).write_text(answer)


class Measured(NamedTuple):
    measured: dsl.Dataset


@dsl.pipeline(name="parts")
def graph(lists: str) -> Measured:
    items = read_lists(lists=lists)
    model = learn(train=items.outputs["train"]).outputs["model"]
    task = measure(queries=items.outputs["queries"], model=model)
    return Measured(task.outputs["measured"])


def test_a_changed_query_runs_the_evaluation_and_no_training(tmp_path: Path) -> None:
    def run(lists: str) -> tuple[set[str], str]:
        steps, outputs = run_graph(graph, {"lists": lists}, tmp_path, {}, cache="store")
        ran = {step for step, timing in steps.items() if not timing.cached}
        return ran, Path(outputs["measured"].path).read_text()

    every = {"read_lists", "learn", "measure"}
    assert run("tq") == (every, "model of t on q")
    assert run("tq") == (set(), "model of t on q")
    assert run("tr") == ({"read_lists", "measure"}, "model of t on r")
    assert run("ur") == (every, "model of u on r")


def test_a_moved_folder_keeps_its_results(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"

    def run(output: Path) -> tuple[set[str], Path]:
        steps, outputs = run_graph(graph, {"lists": "tq"}, output, {}, cache="store")
        ran = {step for step, timing in steps.items() if not timing.cached}
        return ran, Path(outputs["measured"].path)

    run(here)
    here.rename(there)
    ran, measured = run(there)
    assert ran == set()
    assert measured.is_relative_to(there)
    assert measured.read_text() == "model of t on q"


def test_a_moved_store_keeps_its_cache(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    tracked = start_run(here, {})
    name = cache_name(tracked, here)
    here.rename(there)
    assert cache_name(start_run(there, {}), there) == name
    assert cache_name(start_run(tmp_path / "another", {}), tmp_path / "another") != name
