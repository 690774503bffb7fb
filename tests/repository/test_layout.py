"""What keeps the code readable: sizes of files and functions, rooms, and habits of the tests."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.paths import ROOT

LIBRARY, TESTS, STEPS = ROOT / "src/product1m", ROOT / "tests", ROOT / "src/product1m/steps"
FOLDERS = [ROOT / name for name in ("src", "components", "pipelines", "tests", "benchmarks")]
MAX_FILE, MAX_FUNCTION, MAX_STEP = 400, 40, 60
"""Lines; a step's is its `run`."""
ROOT_FILES = {"__init__.py", "__main__.py", "errors.py", "py.typed"}
WITHOUT_A_MIRROR = {"repository", "recordings", "support"}
"""Folders of tests of what surrounds the code, of recorded answers, and of helpers."""
CLOCKS = {"monotonic", "perf_counter", "process_time", "time"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def python_files(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in sorted(folder.rglob("*.py"))]


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def place(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"


def functions(path: Path) -> list[Function]:
    return [node for node in ast.walk(parsed(path)) if isinstance(node, Function)]


def too_long(path: Path) -> Iterator[str]:
    """Functions of a file with more lines than they may have."""
    for function in functions(path):
        is_step = path.parent == STEPS and function.name == "run"
        num_lines = (function.end_lineno or 0) - function.lineno + 1
        if num_lines > (MAX_STEP if is_step else MAX_FUNCTION):
            yield f"{place(path, function)} {function.name}: {num_lines} lines"


def reads_clock(node: ast.AST) -> bool:
    return any(
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in CLOCKS
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id == "time"
        for call in ast.walk(node)
    )


def timed_assertions(function: Function) -> Iterator[ast.Assert]:
    """Assertions about how long something took; a loop may wait until a deadline."""
    waiting = {
        node
        for loop in ast.walk(function)
        if isinstance(loop, ast.While)
        for node in ast.walk(loop)
    }
    taken = {
        target.id
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.BinOp)
        for target in node.targets
        if isinstance(target, ast.Name)
        and isinstance(node.value.op, ast.Sub)
        and reads_clock(node.value)
    }
    for node in ast.walk(function):
        if isinstance(node, ast.Assert) and node not in waiting:
            names = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
            if reads_clock(node) or names & taken:
                yield node


def test_no_file_is_longer_than_a_sitting() -> None:
    sizes = {path: len(path.read_text("utf-8").splitlines()) for path in python_files(*FOLDERS)}
    assert [path for path, num_lines in sizes.items() if num_lines > MAX_FILE] == []


def test_no_function_is_longer_than_a_screen() -> None:
    assert [line for path in python_files(*FOLDERS) for line in too_long(path)] == []


def test_the_package_root_holds_rooms_and_little_else() -> None:
    files = {path.name for path in LIBRARY.iterdir() if path.is_file()}
    assert files == ROOT_FILES
    rooms = [path for path in LIBRARY.iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert [room for room in rooms if not (room / "__init__.py").exists()] == []


def test_tests_mirror_the_code() -> None:
    folders = {path.parent.relative_to(TESTS) for path in TESTS.rglob("test_*.py")}
    mirrored = {folder for folder in folders if folder.parts[:1][0] not in WITHOUT_A_MIRROR}
    assert len(mirrored) > 20
    assert [
        str(folder)
        for folder in sorted(mirrored)
        if not (LIBRARY / folder).is_dir() and not (ROOT / folder).is_dir()
    ] == []


def test_no_test_imports_a_private_name_of_another() -> None:
    private = [
        f"{place(path, node)} {alias.name}"
        for path in python_files(TESTS)
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tests"
        for alias in node.names
        if alias.name.startswith("_")
    ]
    assert private == []


def test_no_test_imports_another_test() -> None:
    """What two tests need is in `tests/support` or a fixture."""
    imported = [
        place(path, node)
        for path in python_files(TESTS)
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ImportFrom)
        and any(part.startswith("test_") for part in (node.module or "").split("."))
    ]
    assert imported == []


def test_no_test_depends_on_how_long_something_takes() -> None:
    """A loaded machine would fail it; speed is measured by benchmarks."""
    timed = [
        place(path, node)
        for path in python_files(TESTS)
        for function in functions(path)
        for node in timed_assertions(function)
    ]
    assert timed == []


@pytest.mark.parametrize(
    ("body", "is_timed"),
    [
        ("assert time.monotonic() - started < 5", True),
        ("taken = time.perf_counter() - started\nassert taken < 5", True),
        ("while not done():\n    assert time.monotonic() < deadline", False),
        ("assert clock.time() == 5", False),
    ],
)
def test_assertions_about_time_are_recognized(body: str, is_timed: bool) -> None:
    function = ast.parse("def test():\n" + "".join(f"    {line}\n" for line in body.split("\n")))
    found = list(timed_assertions(function.body[0]))  # type: ignore[arg-type]
    assert bool(found) is is_timed
