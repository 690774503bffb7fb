"""Work folders: whose they are, who may use them, and how they go."""

from pathlib import Path

import pytest

from product1m.artifacts.folder import Artifact, open_artifact, write_artifact
from product1m.artifacts.work import locked_work_folder, work_folder
from product1m.config import IndexingConfig, IngestionConfig
from product1m.errors import LockedError
from product1m.steps.bracket import open_step
from tests.support.worlds.other_process import holding

CONFIG = IndexingConfig()


def write(folder: Path, text: str = "content") -> Artifact:
    with write_artifact(folder, "ingestion", IngestionConfig(), part="train") as writer:
        (writer.folder / "a.txt").write_text(text)
    return open_artifact(folder, "ingestion", "train")


def test_a_work_folder_belongs_to_inputs_and_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRODUCT1M_WORK", str(tmp_path / "work"))
    first, second = write(tmp_path / "one"), write(tmp_path / "two", text="other")

    def folder(artifact: Artifact, probes: int, output: str = "out") -> Path:
        config = IndexingConfig(probes=probes)
        return work_folder(tmp_path / output, "indexing", config, {"gallery": artifact})

    assert folder(first, 1) == folder(first, 1, output="next attempt")
    assert folder(first, 1).parent == tmp_path / "work"
    assert len({folder(first, 1), folder(first, 2), folder(second, 1)}) == 3
    monkeypatch.delenv("PRODUCT1M_WORK")
    assert folder(first, 1).parent == tmp_path / ".work"


def test_a_second_run_with_the_same_inputs_is_told_who_uses_the_work_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRODUCT1M_WORK", str(tmp_path / "work"))
    inputs = {"gallery": write(tmp_path / "one")}
    with (
        holding(work_folder(tmp_path / "out", "indexing", CONFIG, inputs)) as pid,
        pytest.raises(LockedError, match=rf"another run \(pid {pid} on .*\) is writing here"),
        locked_work_folder(tmp_path / "other", "indexing", CONFIG, inputs),
    ):
        pytest.fail("the second run must not start")
    with locked_work_folder(tmp_path / "other", "indexing", CONFIG, inputs):
        pass


def test_a_step_that_fails_keeps_its_work_folder_and_one_that_succeeds_removes_it(
    tmp_path: Path,
) -> None:
    for fails in (True, False):
        try:
            with open_step("indexing", CONFIG, tmp_path / "out") as step:
                work = step.work_folder()
                assert (work / "half").exists() is not fails
                (work / "half").touch()
                if fails:
                    raise ValueError("stop")
        except ValueError:
            assert (work / "half").exists()
    step.remove_work()
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "no work folder, no lock"


def test_what_a_killed_removal_left_goes_with_the_next_step(tmp_path: Path) -> None:
    rest = tmp_path / ".work" / ".removing-indexing-0123"
    rest.mkdir(parents=True)
    (rest / "checkpoint").touch()
    with open_step("indexing", CONFIG, tmp_path / "out") as step:
        step.work_folder()
        assert not rest.exists()
