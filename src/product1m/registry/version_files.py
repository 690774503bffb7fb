"""The files of a registered version: their names, reading them, checking them."""

import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from product1m.artifacts.manifest import Summary
from product1m.errors import ArtifactError, RegistryError
from product1m.registry.evidence import EVIDENCE, Champion, Evidence
from product1m.registry.versions import LINEAGE, ModelVersion
from product1m.serving.model_folder import (
    CODE,
    MODEL_FOLDER,
    SERVING,
    STEP_OF,
    THUMBNAILS,
    open_part,
)
from product1m.storage.base import sha256_of
from product1m.telemetry.mlflow_client import download, registry_mlflow, talking_to_registry

MISSING = "missing"
"""Digest of a file that a version was registered without."""
_LINEAGE = TypeAdapter(dict[str, Summary])


def read_evidence(version: ModelVersion) -> Evidence | None:
    """What a version was measured to do; None if it has no evidence."""
    text = _read(version, EVIDENCE)
    try:
        return None if text is None else Evidence.model_validate_json(text)
    except ValidationError as error:
        raise RegistryError(f"{version.title}: {EVIDENCE} is damaged: {error}") from error


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
    try:
        return {} if text is None else _LINEAGE.validate_json(text)
    except ValidationError as error:
        raise RegistryError(f"{version.title}: {LINEAGE} is damaged: {error}") from error


def lineage_json(lineage: Mapping[str, Summary]) -> str:
    """What `read_lineage` reads."""
    return _LINEAGE.dump_json(dict(lineage), indent=2).decode()


def verify_version(version: ModelVersion) -> None:
    """Fetch a version, compare its files with its tags, load it and let it answer its example.

    Raises RegistryError that names a wrong file, or says why the model does not answer.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = download(version.uri, "", Path(scratch))
        _check_digests(version, folder)
        _check_answers(version, folder)


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


def _check_digests(version: ModelVersion, folder: Path) -> None:
    digests = digests_of(folder / "artifacts" / MODEL_FOLDER, folder / CODE.name, folder)
    if f"digest.{THUMBNAILS}" in version.tags:
        digests.setdefault(THUMBNAILS, MISSING)
    for name, digest in digests.items():
        expected = version.tags.get(f"digest.{name}", MISSING)
        if digest != expected:
            raise RegistryError(
                f"{version.title}: {name} has digest {digest}, but was registered with "
                f"{expected}; it was changed since, register the pipeline's output again"
            )


def _check_answers(version: ModelVersion, folder: Path) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = registry_mlflow().pyfunc.load_model(str(folder))
            example = model.input_example
            answers = [list(ids) for ids in model.predict(example)["ids"]]
    except Exception as error:  # a model that does not load can fail in any way
        raise RegistryError(
            f"{version.title}: does not load and answer its input example here: {error}; promote "
            "from an installation that its requirements.txt describes"
        ) from error
    if len(answers) != len(example) or not all(answers):
        raise RegistryError(
            f"{version.title}: expected a ranking for each of {len(example)} input examples, got "
            f"rankings of {[len(answer) for answer in answers]} items"
        )


def _read(version: ModelVersion, name: str) -> str | None:
    with talking_to_registry(f"listing the files of {version.title}"):
        files = registry_mlflow().artifacts.list_artifacts(version.uri)
    if name not in {Path(file.path).name for file in files}:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        return download(version.uri, name, Path(scratch)).read_text("utf-8")
