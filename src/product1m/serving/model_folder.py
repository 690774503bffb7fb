"""What the folder of a registered model holds: three artifacts, settings, and small gallery photos.

`rpn/`, `capture/` and `index/` are artifacts as their steps wrote them, `thumbnails/` is one that
need not be there, and `serving.json` holds the settings that the evaluated queries went through.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from product1m.artifacts.folder import Artifact, open_artifact
from product1m.artifacts.manifest import MANIFEST
from product1m.artifacts.model_parts import LOGGED, SERVING, STEP_OF, THUMBNAILS
from product1m.config import EvaluationConfig, FeatureExtractionConfig, IngestionConfig
from product1m.errors import ArtifactError
from product1m.retrieval.match_score import MatchScorer
from product1m.serving.signatures import DOWNLOADED_FROM, SIGNATURE
from product1m.storage.base import sha256_of
from product1m.storage.disk import reason_of

MODEL_FOLDER = LOGGED.rpartition("/")[2]
"""Name of the MLflow artifact that is this folder."""
CODE = Path(__file__).with_name("mlflow_model.py")
"""The Python file that MLflow runs the folder with; logged beside it under its own name."""
FILES = "files.json"
"""List of a version's files with their digests; its own digest is a tag of the version."""


class ServingConfig(BaseModel):
    """`serving.json`: what the evaluated queries went through."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ingestion: IngestionConfig
    feature_extraction: FeatureExtractionConfig
    evaluation: EvaluationConfig
    weights: Mapping[str, float]
    """The shipped fusion."""
    match_score: MatchScorer | None = None
    """None in a model that was registered before there were match scores, or whose dev queries
    allowed none: its answers have an order only."""

    @classmethod
    def read(cls, model: Path) -> "ServingConfig":
        """ArtifactError if the file of a model folder is missing or not what this code wrote."""
        path = model / SERVING
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise ArtifactError(
                f"{path}: not a serving configuration ({reason_of(error)})"
            ) from error

    def write(self, model: Path) -> None:
        """Write it into a model folder."""
        (model / SERVING).write_text(self.model_dump_json(indent=2), "utf-8")


def open_part(model: Path, name: str) -> Artifact:
    """One of the artifacts in a model folder.

    Raises ArtifactError if it is missing, another's, or keeps files elsewhere.
    """
    artifact = open_artifact(model / name, STEP_OF[name])
    if stored := [name for name, entry in artifact.manifest.files.items() if entry.stored]:
        raise ArtifactError(
            f"{artifact.folder / stored[0]}: kept in {artifact.manifest.storage}; a model holds "
            "its own files"
        )
    return artifact


def link_parts(model: Path, parts: Mapping[str, Artifact]) -> None:
    """Make a model folder of artifacts by name.

    Files are linked if the file system can, so gigabytes are not copied.
    """
    for name, artifact in parts.items():
        shutil.copytree(artifact.folder, model / name, copy_function=_link)


def copy_parts(model: Path, target: Path) -> None:
    """Copy a model folder that nobody vouches for: what its manifests list, and nothing else.

    Raises ArtifactError for a file that is damaged, missing, too many, or not in the folder.
    """
    names = {path.name for path in model.iterdir()}
    if unknown := names - STEP_OF.keys() - {SERVING}:
        expected = ", ".join((*STEP_OF, SERVING))
        raise ArtifactError(f"{model / min(unknown)}: not a part of a model; expected {expected}")
    target.mkdir()
    ServingConfig.read(model).write(target)
    for name in STEP_OF:
        if name in names or name != THUMBNAILS:
            _copy_part(open_part(model, name), target / name)


def _copy_part(artifact: Artifact, target: Path) -> None:
    listed = {MANIFEST, *artifact.manifest.files}
    for path in files_below(artifact.folder):
        if path.relative_to(artifact.folder).as_posix() not in listed:
            raise ArtifactError(f"{path}: not a file that {artifact.manifest.step} wrote")
    artifact.verify()
    shutil.copytree(artifact.folder, target, copy_function=_link)


def files_below(folder: Path) -> Iterator[Path]:
    """Every file below a folder; ArtifactError for a link or anything else that is no file."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ArtifactError(f"{path}: expected a file, got a link or a device")
        if path.is_file():
            yield path


def digests_by_name(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a version, by its path, without the list and signature of them."""
    names = {path.relative_to(folder).as_posix(): path for path in files_below(folder)}
    aside = {FILES, SIGNATURE, DOWNLOADED_FROM}
    return {name: sha256_of(path) for name, path in names.items() if name not in aside}


def write_file_list(folder: Path, digests: Mapping[str, str]) -> Path:
    """Write the list of a version's files into a folder."""
    path = folder / FILES
    path.write_text(json.dumps(dict(sorted(digests.items())), indent=1), "utf-8")
    return path


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)
