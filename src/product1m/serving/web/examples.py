"""Photos that the page offers to somebody who has none at hand."""

import json
from dataclasses import dataclass
from pathlib import Path

from product1m.errors import StorageError
from product1m.storage.disk import reason_of

LIST = "examples.jsonl"
"""File beside the photos: a line `{"photo": "set.jpg", "title": "…"}` for each, in their order."""


@dataclass(frozen=True)
class ExamplePhoto:
    """A photo with the title that it is searched with."""

    photo: bytes
    title: str


def read_examples(folder: Path) -> tuple[ExamplePhoto, ...]:
    """The photos of a folder; StorageError for one that is not in it, or a line that names none."""
    path = folder / LIST
    try:
        lines = path.read_text("utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise StorageError(
            f"{path}: cannot be read ({reason_of(error)}); expected the list of photos"
        ) from None
    return tuple(
        _read(folder, line, f"{path}:{place}")
        for place, line in enumerate(lines, start=1)
        if line.strip()
    )


def _read(folder: Path, line: str, where: str) -> ExamplePhoto:
    try:
        row = json.loads(line)
        name, title = str(row["photo"]), str(row["title"])
    except (ValueError, LookupError, TypeError) as error:
        raise StorageError(
            f'{where}: expected {{"photo": "name.jpg", "title": "…"}}, got {line[:80]!r}'
        ) from error
    if name != Path(name).name:
        raise StorageError(f"{where}: photo {name!r}: expected the name of a file in {folder}")
    try:
        return ExamplePhoto((folder / name).read_bytes(), title)
    except OSError as error:
        raise StorageError(
            f"{where}: photo {name!r} cannot be read ({reason_of(error)})"
        ) from error
