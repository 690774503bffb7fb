"""The files of a candidate on the reviewer's machine: fetched, and believed only where checked.

Nothing of a candidate is executed or loaded here. Its Python file must be this package's own, and
what MLflow wrote beside it is not used at all (see `champion_files`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from product1m.artifacts.manifest import Summary
from product1m.errors import RegistryError
from product1m.registry.evidence import EVIDENCE, Evidence
from product1m.registry.version_files import MISSING, digests_of, parse_evidence, parse_lineage
from product1m.registry.versions import DIGESTS, FILES_DIGEST, LINEAGE, ModelVersion
from product1m.serving.model_folder import CODE, FILES, MODEL_FOLDER, digests_by_name
from product1m.serving.signatures import DOWNLOADED_FROM
from product1m.storage.base import sha256_of
from product1m.telemetry.mlflow_client import download

INPUT_EXAMPLE = "input_example.json"
_DIGESTS = TypeAdapter(dict[str, str])
_ADVICE = "it was changed since; register the pipeline's output again"
_OLDER = (
    "it was registered by an older version of this package, register the pipeline's output again"
)


@dataclass(frozen=True)
class CandidateFiles:
    """A candidate whose every file is the one that was registered."""

    folder: Path
    evidence: Evidence
    lineage: Mapping[str, Summary]
    digest: str
    """Digest of the list of all files."""

    @property
    def model(self) -> Path:
        """The model folder."""
        return self.folder / "artifacts" / MODEL_FOLDER


def fetch_candidate(version: ModelVersion, folder: Path) -> CandidateFiles:
    """Download a candidate and check it against the digests from its registration.

    Raises RegistryError that names the file that was changed, added or removed since, and if its
    code is not this package's.
    """
    files = download(version.uri, "", folder)
    (files / DOWNLOADED_FROM).unlink(missing_ok=True)
    _check_every_file(version, files)
    _check_parts(version, files)
    if sha256_of(files / CODE.name) != sha256_of(CODE):
        raise RegistryError(
            f"{version.title}: its {CODE.name} is not the one of this installation; promote from "
            "the installation that registered it, or register the pipeline's output again"
        )
    return CandidateFiles(
        files,
        parse_evidence((files / EVIDENCE).read_bytes(), version.title),
        parse_lineage((files / LINEAGE).read_bytes(), version.title),
        sha256_of(files / FILES),
    )


def _check_parts(version: ModelVersion, folder: Path) -> None:
    path = folder / DIGESTS
    if not path.is_file():
        raise RegistryError(f"{version.title}: has no {DIGESTS}; {_OLDER}")
    registered: dict[str, str] = json.loads(path.read_text("utf-8"))
    digests = digests_of(folder / "artifacts" / MODEL_FOLDER, folder / CODE.name, folder)
    for name, digest in digests.items():
        expected = registered.get(name, MISSING)
        if digest != expected:
            raise RegistryError(
                f"{version.title}: {name} has digest {digest}, but was registered with "
                f"{expected}; {_ADVICE}"
            )


def _check_every_file(version: ModelVersion, folder: Path) -> None:
    expected = version.tags.get(FILES_DIGEST)
    path = folder / FILES
    if expected is None:
        raise RegistryError(f"{version.title}: has no list of its files; {_OLDER}")
    if not path.is_file() or sha256_of(path) != expected:
        raise RegistryError(
            f"{version.title}: {FILES} is not the list it was registered with; {_ADVICE}"
        )
    try:
        listed = _DIGESTS.validate_json(path.read_bytes())
    except ValidationError as error:
        raise RegistryError(f"{version.title}: {FILES} is damaged: {error}; {_ADVICE}") from error
    present = digests_by_name(folder)
    for name in sorted(listed.keys() | present.keys()):
        if present.get(name) != listed.get(name):
            change = "changed" if name in present else "missing"
            change = change if name in listed else "added"
            raise RegistryError(f"{version.title}: {name} is {change}; {_ADVICE}")


def read_question(folder: Path, title: str) -> pd.DataFrame:
    """The input example of a version, photo and title, as plain text."""
    try:
        stored = json.loads((folder / INPUT_EXAMPLE).read_text("utf-8"))
        table = stored["inputs"]  # beside `params`, as MLflow stores a table with parameters
        rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
        question = [{"photo": str(row["photo"]), "title": str(row["title"])} for row in rows]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RegistryError(
            f"{title}: {INPUT_EXAMPLE} holds no photo with a title ({error})"
        ) from error
    if not question:
        raise RegistryError(f"{title}: {INPUT_EXAMPLE} is empty; expected a photo with a title")
    return pd.DataFrame(question)
