"""Temporary folders: gone with their block, or with the next process after a kill."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from product1m.errors import StorageError
from product1m.storage.scratch import scratch_folder, temporary_files_in

HOLDER = """
from product1m.storage.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "model").write_text("gigabytes")
    print(folder, flush=True)
    input()
"""


@pytest.fixture(autouse=True)
def own_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def folders(root: Path) -> list[Path]:
    return [path for path in root.glob("*/*") if path.is_dir()]


def test_the_folder_of_a_killed_process_is_removed_and_that_of_a_running_one_is_not(
    own_temporary: Path,
) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    made = []
    for process in processes:
        assert process.stdout is not None
        made.append(Path(process.stdout.readline().strip()))
    os.kill(processes[0].pid, signal.SIGKILL)
    processes[0].wait()
    assert all(folder.is_dir() for folder in made)
    with scratch_folder() as own:
        assert set(folders(own_temporary)) == {own, made[1]}
    assert folders(own_temporary) == [made[1]]
    processes[1].communicate("\n", timeout=60)
    assert processes[1].returncode == 0
    assert folders(own_temporary) == []


def test_blocks_nest_and_other_libraries_write_into_the_folder(own_temporary: Path) -> None:
    with scratch_folder() as outer, temporary_files_in(outer):
        with scratch_folder() as inner, tempfile.NamedTemporaryFile() as file:
            assert inner.is_relative_to(outer)
            assert Path(file.name).parent == outer
        assert outer.is_dir()
    assert tempfile.gettempdir() == str(own_temporary)
    assert folders(own_temporary) == []


def test_a_folder_that_others_may_write_to_is_refused(own_temporary: Path) -> None:
    with scratch_folder() as folder:
        root = folder.parent
    root.chmod(0o777)
    with pytest.raises(StorageError, match=r"nobody else may write to; remove it, or set TMPDIR"):
        scratch_folder().__enter__()
    root.rmdir()
    root.symlink_to(own_temporary.parent)
    with pytest.raises(StorageError, match="nobody else may write to"):
        scratch_folder().__enter__()
