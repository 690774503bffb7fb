"""Files and folders that appear whole or not at all, also for processes that are killed."""

import contextlib
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from product1m.artifacts.atomic import (
    finish_removals,
    recover_replaced,
    require_unused,
    whole_file,
    whole_folder,
    write_text,
)
from product1m.errors import LockedError, StorageError
from tests.support.worlds.other_process import holding


def killed_while(script: str, *arguments: object) -> None:
    """Run a script that ends its process with exit code 9."""
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    done = subprocess.run(command, check=False)
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
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".file.partial", ".folder.lock", ".folder.partial"]
    with whole_folder(tmp_path / "folder") as partial:
        assert list(partial.iterdir()) == []
    write_text(tmp_path / "file", "fresh")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("killed_at", ["first rename", "second rename", "removal"])
def test_a_replacement_that_was_killed_loses_neither_the_old_nor_the_new(
    killed_at: str, tmp_path: Path
) -> None:
    folder = tmp_path / "artifact"
    with whole_folder(folder) as partial:
        (partial / "old.txt").write_text("old")
    script = """
        import os, shutil, sys
        from pathlib import Path
        from product1m.artifacts.atomic import whole_folder
        rename, renames = Path.rename, []
        def stop_at(self, target):
            renames.append(target)
            if len(renames) == int(sys.argv[2]):
                os._exit(9)
            return rename(self, target)
        Path.rename = stop_at
        with whole_folder(Path(sys.argv[1], "artifact")) as folder:
            (folder / "new.txt").write_text("new")
    """
    number = ["first rename", "second rename", "removal"].index(killed_at) + 1
    killed_while(script, tmp_path, str(number))
    recover_replaced(folder)
    assert visible(folder) == ["old.txt" if killed_at == "first rename" else "new.txt"]
    with whole_folder(folder) as partial:
        (partial / "newest.txt").write_text("newest")
    assert visible(folder) == ["newest.txt"]
    assert list(tmp_path.iterdir()) == [folder], "nothing hidden is left"


def test_two_writers_of_one_folder_are_told_apart(tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    with (
        holding(folder) as pid,
        pytest.raises(LockedError, match=rf"{folder}: another run \(pid {pid} on .*since \d\d:"),
        whole_folder(folder),
    ):
        pytest.fail("the second writer must not start")
    with whole_folder(folder):
        pass


def test_a_folder_is_removed_at_once_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "work" / "sub").mkdir(parents=True)
    (tmp_path / "work" / "sub" / "file").touch()
    script = """
        import os, sys
        from pathlib import Path
        from product1m.artifacts import atomic
        atomic.shutil.rmtree = lambda folder, ignore_errors=False: ignore_errors or os._exit(9)
        atomic.remove_folder(Path(sys.argv[1], "work"))
    """
    killed_while(script, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".removing-work"]
    finish_removals(tmp_path)
    assert not [*tmp_path.iterdir()]


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    require_unused(tmp_path)
    require_unused(tmp_path / "missing")
    (tmp_path / "mine.txt").write_text("keep")
    for used in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(StorageError, match="not an empty folder; remove it or choose another"):
            require_unused(used)
