"""Which code a step runs, so that changed code voids the cached results of that step only.

A step depends on its component, on its module in `product1m.steps`, on every module of `product1m`
that these import, functions included, and on the data files of the packages of these modules
(presets, templates). The modules are read, not imported.
"""

import ast
import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kfp.dsl import PipelineTask

import product1m
from pipelines.graph.training import TaskSetup
from product1m.config import STEPS
from product1m.storage.base import sha256_of

CODE = "PRODUCT1M_CODE"
"""Environment variable of a local task; kfp.local's cache key contains a task's environment."""
LIBRARY = Path(product1m.__file__).parent
COMPONENTS = Path(__file__).parents[2] / "components"


@dataclass(frozen=True)
class KeyedByCode:
    """Platform of a local run: cached results belong to the code of their step."""

    platform: TaskSetup | None = None
    """Applied as well."""
    digest: Callable[[str], str] | None = None
    """Digest of a step's code; `step_digest` if None."""

    def apply(self, task: PipelineTask) -> None:
        """Set the task's environment variable, and what `platform` sets."""
        if self.platform:
            self.platform.apply(task)
        digest = self.digest or step_digest
        task.set_env_variable(CODE, digest(task.component_spec.name.replace("-", "_")))


def source_digest(steps: Iterable[str] = STEPS) -> str:
    """SHA-256 over the code of several steps."""
    return hashlib.sha256("\n".join(map(step_digest, steps)).encode()).hexdigest()


def step_digest(step: str, library: Path = LIBRARY, components: Path = COMPONENTS) -> str:
    """SHA-256 over the names and contents of a step's files."""
    digest = hashlib.sha256()
    for path in source_files(step, library, components):
        root = components if path.is_relative_to(components) else library
        digest.update(f"{path.relative_to(root)}\0{sha256_of(path)}\n".encode())
    return digest.hexdigest()


def source_files(step: str, library: Path = LIBRARY, components: Path = COMPONENTS) -> list[Path]:
    """Files that a step depends on, sorted; `library` and `components` are folders."""
    component = components / f"{step}.py"
    modules = {component, *_files(library, f"product1m.steps.{step}")}
    unread = list(modules)
    while unread:
        for path in _imported(unread.pop(), library):
            if path not in modules:
                modules.add(path)
                unread.append(path)
    packages = {path.parent for path in modules - {component}}
    return sorted(modules.union(*map(_data_files, packages)))


def _imported(path: Path, library: Path) -> set[Path]:
    names = _imported_names(path.read_text("utf-8"))
    return {file for name in names for file in _files(library, name)}


@functools.lru_cache(maxsize=1024)
def _imported_names(source: str) -> tuple[str, ...]:
    """Names that may be modules; `from a import b` gives `a` and `a.b`."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(names)


def _files(library: Path, name: str) -> Iterator[Path]:
    """Files that Python runs to import a module of the library; none for other names."""
    root, *parts = name.split(".")
    if root != library.name:
        return
    folder = library
    yield folder / "__init__.py"
    for part in parts:
        module = folder / f"{part}.py"
        folder = folder / part
        if module.is_file():
            yield module
            return
        if (folder / "__init__.py").is_file():
            yield folder / "__init__.py"


def _data_files(package: Path) -> Iterator[Path]:
    """Files of a package that are not Python, without those of the packages inside it."""
    for path in package.iterdir():
        if path.is_dir():
            if path.name != "__pycache__" and not (path / "__init__.py").is_file():
                yield from (file for file in path.rglob("*") if file.is_file())
        elif path.suffix != ".py":
            yield path
