"""The files of a registered version: their names, reading them, checking them."""

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from product1m.artifacts.manifest import Summary
from product1m.artifacts.model_parts import SERVING, STEP_OF, THUMBNAILS
from product1m.errors import ArtifactError, RegistryError
from product1m.registry.evidence import EVIDENCE, Champion, Evidence
from product1m.registry.versions import DIGESTS, LINEAGE, ModelVersion
from product1m.serving.model_folder import open_part
from product1m.storage.base import sha256_of
from product1m.storage.scratch import scratch_folder
from product1m.telemetry.mlflow_client import (
    download,
    registry_mlflow,
    require_logged,
    talking_to_registry,
)

MISSING = "missing"
"""Digest of a file that a version was registered without."""
_LINEAGE = TypeAdapter(dict[str, Summary])


def read_evidence(version: ModelVersion) -> Evidence | None:
    """What a version was measured to do; None if it has no evidence."""
    text = _read(version, EVIDENCE)
    return None if text is None else parse_evidence(text, version.title)


def parse_evidence(text: bytes, title: str) -> Evidence:
    """`evidence.json` of a version; RegistryError if it is damaged."""
    try:
        return Evidence.model_validate_json(text)
    except ValidationError as error:
        raise RegistryError(f"{title}: {EVIDENCE} is damaged: {error}") from error


def require_evidence(version: ModelVersion) -> Evidence:
    """What a version was measured to do; RegistryError if it has no evidence."""
    evidence = read_evidence(version)
    if evidence is None:
        raise RegistryError(f"{version.title}: has no {EVIDENCE}; it was not fully registered")
    return evidence


def as_champion(version: ModelVersion) -> Champion:
    """A version with its evidence, to compare candidates with."""
    return Champion(version.number, read_evidence(version), version.tags)


def read_lineage(version: ModelVersion) -> dict[str, Summary]:
    """Summaries of the steps that made a version; empty if it has no lineage."""
    text = _read(version, LINEAGE)
    return {} if text is None else parse_lineage(text, version.title)


def parse_lineage(text: bytes, title: str) -> dict[str, Summary]:
    """`lineage.json` of a version; RegistryError if it is damaged."""
    try:
        return _LINEAGE.validate_json(text)
    except ValidationError as error:
        raise RegistryError(f"{title}: {LINEAGE} is damaged: {error}") from error


def lineage_json(lineage: Mapping[str, Summary]) -> str:
    """What `read_lineage` reads."""
    return _LINEAGE.dump_json(dict(lineage), indent=2).decode()


def digests_of(model: Path, code: Path, files: Path) -> dict[str, str]:
    """Digest of everything a version consists of, from the files themselves.

    Args:
        model: the model folder, see `model_folder`.
        code: the version's Python file.
        files: folder with `evidence.json` and `lineage.json`.
    """
    paths = (model / SERVING, code, files / EVIDENCE, files / LINEAGE)
    digests = {path.name: sha256_of(path) for path in paths if path.is_file()}
    for path in paths:
        digests.setdefault(path.name, MISSING)
    for name, step in STEP_OF.items():
        if name == THUMBNAILS and not (model / name).is_dir():
            continue
        try:
            artifact = open_part(model, name)
            artifact.verify()
        except ArtifactError as error:
            raise RegistryError(f"{name}: {error}") from error
        digests[name if name == THUMBNAILS else step] = artifact.manifest.content_digest()
    return digests


def write_digests(folder: Path, digests: Mapping[str, str]) -> None:
    """Write what a version was made from: digests of the parts of its model and of artifacts."""
    (folder / DIGESTS).write_text(json.dumps(dict(sorted(digests.items())), indent=1), "utf-8")


def _read(version: ModelVersion, name: str) -> bytes | None:
    with talking_to_registry(f"listing the files of {version.title}") as client:
        require_logged(version.uri, client)
        files = registry_mlflow().artifacts.list_artifacts(version.uri)
    if name not in {Path(file.path).name for file in files}:
        return None
    with scratch_folder() as scratch:
        return download(version.uri, name, scratch).read_bytes()
