"""Steps in containers: what they may touch, how a failure is shown, what remains."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import docker
import pytest
from kfp import dsl
from kfp.local import docker_task_handler

from components.images import image
from pipelines.graph.resources import USER_ID
from pipelines.local.console import StepTime
from pipelines.local.containers import RUN_LABEL, Containers, StepImages
from pipelines.local.kfp_local import StepError, run_graph
from product1m.errors import PipelineError
from tests.support.servers.engine import built_image


@dsl.component(base_image=image("ingestion"), install_kfp_package=False)
def probe(given: str, how: str, found: dsl.Output[dsl.Dataset]) -> None:
    import json
    import os
    from pathlib import Path

    if how == "own error":
        from product1m.errors import DatasetError

        raise DatasetError("the third list is cut short")
    if how == "kill":
        os.kill(1, 15)
        os._exit(3)

    def writable(folder: str) -> bool:
        try:
            (Path(folder) / "probe").write_text("x")
        except OSError:
            return False
        return True

    status = Path("/proc/self/status").read_text()
    Path(found.path).mkdir(parents=True)
    (Path(found.path) / "found.json").write_text(
        json.dumps(
            {
                "user": os.getuid(),
                "capabilities": int(status.split("CapEff:")[1].split()[0], 16),
                "read": (Path(given) / "list.txt").read_text(),
                "writable": [d for d in ("/", "/tmp", given, os.environ["WORK"]) if writable(d)],
                "variable": os.environ["TEST_VARIABLE"],
            }
        )
    )


@dsl.component(base_image=image("ingestion"), install_kfp_package=False)
def follow(found: dsl.Input[dsl.Dataset], copied: dsl.Output[dsl.Dataset]) -> None:
    import shutil

    shutil.copytree(found.path, copied.path)


class Found(NamedTuple):
    found: dsl.Dataset
    copied: dsl.Dataset


@dsl.pipeline(name="probes")
def probes(given: str, how: str = "") -> Found:
    first = probe(given=given, how=how)
    return Found(first.outputs["found"], follow(found=first.outputs["found"]).outputs["copied"])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    built_image("ingestion")
    for folder in (tmp_path, *list(tmp_path.parents)[:2]):
        folder.chmod(0o755)  # pytest's folders are for their owner alone
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "list.txt").write_text("a list")
    return folder


def run_probes(
    data: Path, how: str = "", cache: str = ""
) -> tuple[dict[str, StepTime], dict[str, dsl.Artifact]]:
    output = data.parent / "out"
    output.mkdir(exist_ok=True)
    containers = Containers(output, [data])
    environment = {"TEST_VARIABLE": "set", "WORK": str(output / "work")}
    with containers.running():
        return run_graph(
            probes, {"given": str(data), "how": how}, output, environment, cache, containers
        )


def left_behind(data: Path) -> list[Any]:
    label = f"{RUN_LABEL}={data.parent / 'out'}"
    return list(
        docker.from_env().containers.list(all=True, ignore_removed=True, filters={"label": label})
    )


def test_a_step_has_no_rights_and_writes_to_its_folders_alone(data: Path) -> None:
    import json

    steps, outputs = run_probes(data)
    found = json.loads((Path(outputs["copied"].path) / "found.json").read_text())
    assert found == {
        "user": os.getuid() or USER_ID,
        "capabilities": 0,
        "read": "a list",
        "writable": ["/tmp", str(data.parent / "out" / "work")],
        "variable": "set",
    }
    assert all(step.seconds > 0 for step in steps.values())
    assert not left_behind(data)


def test_an_unchanged_step_comes_from_the_cache(data: Path) -> None:
    run_probes(data, cache="a")
    steps, _ = run_probes(data, cache="a")
    assert all(step.cached for step in steps.values())


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("own error", "DatasetError: the third list is cut short"),
        ("kill", r"its container ended with exit code \d+"),
    ],
)
def test_a_step_that_fails_fails_the_run(data: Path, how: str, message: str) -> None:
    with pytest.raises(StepError, match=f"probe failed: {message}"):
        run_probes(data, how)
    assert not left_behind(data)


def test_a_failure_that_kfp_reports_as_success_fails_the_run(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = docker_task_handler.run_docker_container

    def lost_race(*arguments: Any, **keywords: Any) -> int:
        run(*arguments, **keywords)
        return 0  # what kfp.local returns when the engine removed the container before the question

    monkeypatch.setattr(docker_task_handler, "run_docker_container", lost_race)
    for cache in ("a", "a"):
        with pytest.raises(StepError, match="probe failed: DatasetError: the third list"):
            run_probes(data, "own error", cache)


def test_containers_of_a_killed_run_are_removed_before_the_next(data: Path) -> None:
    output = data.parent / "out"
    orphan = docker.from_env().containers.run(
        built_image("ingestion"), ["sleep", "600"], detach=True, labels={RUN_LABEL: str(output)}
    )
    assert [container.id for container in left_behind(data)] == [orphan.id]
    run_probes(data)
    assert not left_behind(data)


def test_an_engine_that_does_not_answer_stops_the_run_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    with pytest.raises(
        PipelineError, match=r"the Docker engine does not answer: .*run without containers"
    ):
        Containers(tmp_path, [])


def test_without_a_lock_the_error_says_how_to_build_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.local.containers.LOCK", tmp_path / "images.lock")
    with pytest.raises(PipelineError, match=r"images\.lock: no such file; .*make images"):
        StepImages.locked()
