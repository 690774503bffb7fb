"""Files and folders that appear whole or not at all, also for processes that are killed."""

import contextlib
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from product1m.artifacts.atomic import require_unused, whole_file, whole_folder, write_text
from product1m.errors import StorageError


def killed_while(script: str, folder: Path) -> None:
    """Run a script that kills its process; `folder` is its first argument."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(folder)], check=False)
    assert done.returncode == 9


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_a_file_is_replaced_only_when_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_text(path, "öld")
    assert path.read_bytes() == "öld".encode()
    with contextlib.suppress(KeyboardInterrupt), whole_file(path) as partial:
        partial.write_text("ne")
        raise KeyboardInterrupt
    assert path.read_text("utf-8") == "öld"
    with whole_file(path) as partial:
        partial.write_text("new")
        assert path.read_text("utf-8") == "öld"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path], "nothing hidden is left"


def test_a_folder_is_replaced_only_when_the_new_one_is_whole(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "artifact"
    with whole_folder(folder) as partial:
        (partial / "old.txt").write_text("old")
        assert not folder.exists()
    with contextlib.suppress(ValueError), whole_folder(folder) as partial:
        (partial / "new.txt").write_text("new")
        raise ValueError("stop")
    assert visible(folder) == ["old.txt"]
    with whole_folder(folder) as partial:
        (partial / "new.txt").write_text("new")
    assert visible(folder) == ["new.txt"]
    assert list(folder.parent.iterdir()) == [folder], "nothing hidden is left"


def test_a_killed_writer_leaves_only_a_hidden_name_and_the_next_one_removes_it(
    tmp_path: Path,
) -> None:
    script = """
        import os, sys
        from pathlib import Path
        from product1m.artifacts.atomic import whole_file, whole_folder
        with whole_folder(Path(sys.argv[1], "folder")) as folder:
            with whole_file(Path(sys.argv[1], "file")) as file:
                (folder / "stale").write_text("x")
                file.write_text("stale")
                os._exit(9)
    """
    killed_while(script, tmp_path)
    assert visible(tmp_path) == []
    assert len(list(tmp_path.iterdir())) == 2
    with whole_folder(tmp_path / "folder") as partial:
        assert list(partial.iterdir()) == []
    write_text(tmp_path / "file", "fresh")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    require_unused(tmp_path)
    require_unused(tmp_path / "missing")
    (tmp_path / "mine.txt").write_text("keep")
    for used in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(StorageError, match="not an empty folder; remove it or choose another"):
            require_unused(used)
