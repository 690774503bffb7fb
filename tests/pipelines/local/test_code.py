"""Changed code voids the cached results of the steps that run it, and no others."""

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from pipelines.local.code import KeyedByCode, source_digest, source_files, step_digest
from pipelines.local.kfp_local import run_graph
from product1m.config import STEPS
from tests.support.paths import ROOT


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A copy of the library that a test may change, with the components beside it."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "components", tmp_path / "components", ignore=ignored)
    return Path(shutil.copytree(ROOT / "src" / "product1m", tmp_path / "product1m", ignore=ignored))


def changed_steps(library: Path, file: str) -> set[str]:
    """Steps whose digest changes with a file of the library or `components/…`."""

    def digests() -> dict[str, str]:
        components = library.parent / "components"
        return {step: step_digest(step, library, components) for step in STEPS}

    before = digests()
    path = library.parent / file
    path.write_text(path.read_text("utf-8") + "\n", "utf-8")
    after = digests()
    return {step for step in STEPS if before[step] != after[step]}


def test_code_of_the_evaluation_voids_the_evaluation_and_no_step_before_it(library: Path) -> None:
    for file in ("product1m/steps/evaluation.py", "components/evaluation.py"):
        assert changed_steps(library, file) == {"evaluation"}
    for file in ("slices.py", "report/templates/report.html"):
        changed = changed_steps(library, f"product1m/evaluation/{file}")
        assert {"evaluation"} <= changed <= {"evaluation", "registration"}


def test_drawing_the_sample_voids_nothing(library: Path) -> None:
    for file in ("sample/drawn/shapes.py", "cli/app.py"):
        assert changed_steps(library, f"product1m/{file}") == set()


def test_code_that_every_step_runs_voids_every_step(library: Path) -> None:
    for file in ("artifacts/folder.py", "__init__.py", "config/presets/sample.yaml"):
        assert changed_steps(library, f"product1m/{file}") == set(STEPS)


def test_imports_inside_functions_count(library: Path) -> None:
    step = library / "steps" / "ingestion.py"
    step.write_text("def run() -> None:\n    from product1m.storage import s3\n")
    files = {path.relative_to(library.parent).as_posix() for path in source_files(
        "ingestion", library, library.parent / "components"
    )}  # fmt: skip
    assert {"product1m/storage/s3.py", "product1m/errors.py", "components/ingestion.py"} <= files
    assert "product1m/data/lists.py" not in files


def test_the_digest_of_several_steps_depends_on_each_of_them() -> None:
    assert source_digest(STEPS) == source_digest()
    assert source_digest(["ingestion"]) != source_digest(["ingestion", "evaluation"])


@dsl.component(base_image="product1m/test:1", install_kfp_package=False)
def first(written: dsl.Output[dsl.Dataset]) -> None:
    from pathlib import Path

    Path(written.path).write_text("first")


@dsl.component(base_image="product1m/test:1", install_kfp_package=False)
def second(given: dsl.Input[dsl.Dataset], written: dsl.Output[dsl.Dataset]) -> None:
    from pathlib import Path

    Path(written.path).write_text(Path(given.path).read_text() + ", second")


class Written(NamedTuple):
    written: dsl.Dataset


def two_steps(code: dict[str, str]) -> BaseComponent:
    platform = KeyedByCode(digest=code.__getitem__)

    @dsl.pipeline(name="two-steps")
    def graph() -> Written:
        one = first()
        two = second(given=one.outputs["written"])
        for task in (one, two):
            platform.apply(task)
        return Written(two.outputs["written"])

    return graph


def test_a_task_whose_code_changed_runs_again_with_the_tasks_behind_it(tmp_path: Path) -> None:
    def ran(**code: str) -> set[str]:
        steps, _ = run_graph(two_steps(code), {}, tmp_path, {}, cache="store")
        return {step for step, timing in steps.items() if not timing.cached}

    assert ran(first="a", second="a") == {"first", "second"}
    assert ran(first="a", second="a") == set()
    assert ran(first="a", second="b") == {"second"}
    assert ran(first="b", second="b") == {"first", "second"}
