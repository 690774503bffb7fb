"""What a killed or failed graph leaves in its output folder, and what the next one removes.

`kfp.local` writes each run of a graph to a folder of its own below `pipeline/`. Of a run that
failed or was killed only the finished tasks are useful, because the cache refers to them.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.local.content_cache import placed_in
from product1m.artifacts.atomic import finish_removals, remove_folder, write_text

MARKER = ".unfinished.json"
"""File in `pipeline/` while a graph runs, and after one that failed; lists older runs' folders."""
CACHE_TEMPORARY = ".kfp_cache_*.tmp"
"""What `kfp.local` leaves in a cache when it is killed while it writes an entry."""


@contextmanager
def cleaned_up(output: Path) -> Iterator[None]:
    """Remove what an earlier graph left unfinished; note that one is running within the block."""
    root = output / "pipeline"
    root.mkdir(parents=True, exist_ok=True)
    remove_leftovers(output)
    write_text(root / MARKER, json.dumps(sorted(path.name for path in _folders(root))))
    yield
    (root / MARKER).unlink()


def remove_leftovers(output: Path) -> None:
    """Remove the tasks of unfinished graphs that no entry of a cache refers to."""
    root = output / "pipeline"
    for path in (output / "cache").glob(f"*/{CACHE_TEMPORARY}"):
        path.unlink()
    if not (root / MARKER).is_file():
        return
    older = set(json.loads((root / MARKER).read_text("utf-8")))
    used = _cached_paths(output)
    for graph in [folder for folder in _folders(root) if folder.name not in older]:
        finish_removals(graph)
        for task in _folders(graph):
            if not any(path.is_relative_to(task) for path in used):
                remove_folder(task)
        if not any(graph.iterdir()):
            graph.rmdir()


def _folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _cached_paths(output: Path) -> set[Path]:
    """Artifacts that the entries of `kfp.local`'s caches refer to."""
    paths: set[Path] = set()
    for entry in (output / "cache").glob("*/*.json"):
        uris = _uris(json.loads(entry.read_text("utf-8")))
        paths.update(placed_in(output, uri) for uri in uris)
    return paths


def _uris(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("uri"), str):
            yield value["uri"]
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _uris(part)
