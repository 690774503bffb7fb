"""The folder a step writes: self-describing, complete, digested, and whole or absent.

A folder holds its files and a `manifest.json`. It is written as a hidden sibling and renamed when
whole, so a killed step leaves nothing that looks finished. A manifest carries its ancestors'
summaries, so the last artifact knows every step's configuration, metrics and digests.
"""

import hashlib
import json
import logging
import os
import resource
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from product1m import __version__
from product1m.config import StepConfig
from product1m.errors import ArtifactError

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
_BLOCK = 1 << 20


class FileEntry(BaseModel):
    """A file of an artifact."""

    model_config = ConfigDict(frozen=True)

    sha256: str
    num_bytes: int


class Summary(BaseModel):
    """What an artifact says of itself, and of each ancestor."""

    step: str
    part: str = ""
    """`train`, `gallery`, `queries` or `scenes` where a step writes or reads several."""
    config: dict[str, Any] = {}
    digest: str = ""
    """SHA-256 over the artifact's files and their names; the manifest itself is not in it."""
    code_version: str = __version__
    metrics: dict[str, float] = {}
    details: dict[str, Any] = {}
    """What a reader needs to know: feature width, backbone, list of blocks, …"""
    seconds: float = 0.0
    peak_memory_mib: float = 0.0

    @property
    def key(self) -> str:
        """`step` or `step/part`: the name of this artifact in a lineage."""
        return f"{self.step}/{self.part}" if self.part else self.step


class Manifest(Summary):
    """`manifest.json`."""

    schema_version: int = SCHEMA_VERSION
    inputs: dict[str, str] = {}
    """Input name to digest."""
    files: dict[str, FileEntry] = {}
    lineage: dict[str, Summary] = {}
    """Every ancestor's summary by key."""

    def content_digest(self) -> str:
        """What `digest` has to be, from the files as they are listed."""
        content = "\n".join(f"{name} {entry.sha256}" for name, entry in self.files.items())
        return hashlib.sha256(content.encode()).hexdigest()


class Artifact:
    """A finished artifact folder, opened for reading."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._verified: set[str] = set()

    @property
    def digest(self) -> str:
        """SHA-256 over the content of the artifact's files."""
        return self.manifest.digest

    def file(self, name: str) -> Path:
        """Path of a file, its digest checked at the first use; ArtifactError if it is damaged."""
        if name not in self._verified:
            self._verify(name)
            self._verified.add(name)
        return self.folder / name

    def files(self, pattern: str) -> list[Path]:
        """Verified paths of the artifact's files that match a glob, sorted by name."""
        return [
            self.file(name) for name in sorted(self.manifest.files) if Path(name).match(pattern)
        ]

    def verify(self) -> None:
        """Check every file; ArtifactError names the first damaged one and both digests."""
        for name in self.manifest.files:
            self.file(name)

    def _verify(self, name: str) -> None:
        path, entry = self.folder / name, self.manifest.files.get(name)
        if entry is None:
            known = ", ".join(sorted(self.manifest.files))
            raise ArtifactError(f"{path}: not a file of this artifact; it has {known}")
        if not path.is_file():
            raise ArtifactError(f"{path}: missing; run {self.manifest.step} again")
        found = sha256_of(path)
        if found != entry.sha256:
            raise ArtifactError(
                f"{path}: damaged: expected sha256 {entry.sha256}, got {found}; "
                f"delete {self.folder} and run {self.manifest.step} again"
            )


class ArtifactWriter:
    """An artifact being written; files go below `folder`, facts into `metrics` and `details`."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest

    @property
    def metrics(self) -> dict[str, float]:
        """Scalars for MLflow, the summary and the registry."""
        return self.manifest.metrics

    @property
    def details(self) -> dict[str, Any]:
        """What a reader of this artifact needs to know."""
        return self.manifest.details


def open_artifact(folder: Path, step: str, part: str = "") -> Artifact:
    """Open what `step` wrote.

    Raises ArtifactError if it is absent, unfinished, of another step or part, or of another schema.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(
            f"{folder}: no {MANIFEST}; expected a finished artifact of {step}: run it first"
        )
    try:
        values = json.loads(path.read_text("utf-8"))
        version = values.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ArtifactError(
                f"{path}: schema version {version}, this code reads {SCHEMA_VERSION}; "
                f"run {step} again"
            )
        manifest = Manifest.model_validate(values)
    except (ValueError, ValidationError, AttributeError) as error:
        raise ArtifactError(f"{path}: not a manifest ({error}); run {step} again") from error
    if manifest.step != step or (part and manifest.part != part):
        raise ArtifactError(
            f"{folder}: expected an artifact of {step} {part}, got one of {manifest.key}"
        )
    return Artifact(folder, manifest)


@contextmanager
def write_artifact(
    folder: Path,
    step: str,
    config: StepConfig,
    inputs: Mapping[str, Artifact] | None = None,
    part: str = "",
) -> Iterator[ArtifactWriter]:
    """Write an artifact at `folder`; it appears there, whole, when the block ends without an error.

    An older artifact at `folder` is replaced then. Anything else there is refused at once.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise ArtifactError(
            f"{folder}: holds something that is not an artifact; choose an empty or new folder"
        )
    inputs = inputs or {}
    manifest = Manifest(
        step=step,
        part=part,
        config=config.model_dump(mode="json"),
        inputs={name: artifact.digest for name, artifact in inputs.items()},
        lineage=_lineage(inputs),
    )
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    started = time.monotonic()
    try:
        yield ArtifactWriter(partial, manifest)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    manifest.seconds = round(time.monotonic() - started, 2)
    manifest.peak_memory_mib = round(peak_memory_mib(), 1)
    _finish(partial, folder, manifest)


def work_folder(
    folder: Path, step: str, config: StepConfig, inputs: Mapping[str, Artifact]
) -> Path:
    """Where a step keeps checkpoints between attempts: one place per inputs and configuration.

    Below `$PRODUCT1M_WORK` where that is set (a pipeline gives every attempt a new output folder),
    else beside `folder`. The step removes it when its artifact is whole.
    """
    identity = json.dumps(
        [step, config.model_dump(mode="json"), {k: a.digest for k, a in inputs.items()}]
    )
    name = f"{step}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    root = Path(os.environ.get("PRODUCT1M_WORK") or folder.parent / ".work")
    (root / name).mkdir(parents=True, exist_ok=True)
    return root / name


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, read block by block."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def peak_memory_mib() -> float:
    """Largest resident size of this process or of one of its children so far."""
    usages = (
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return max(usages) / 1024


def _lineage(inputs: Mapping[str, Artifact]) -> dict[str, Summary]:
    lineage: dict[str, Summary] = {}
    for artifact in inputs.values():
        lineage |= artifact.manifest.lineage
        lineage[artifact.manifest.key] = Summary.model_validate(
            artifact.manifest.model_dump(include=set(Summary.model_fields))
        )
    return lineage


def _finish(partial: Path, folder: Path, manifest: Manifest) -> None:
    paths = sorted(path for path in partial.rglob("*") if path.is_file())
    for path in paths:
        name = path.relative_to(partial).as_posix()
        manifest.files[name] = FileEntry(sha256=sha256_of(path), num_bytes=path.stat().st_size)
    manifest.digest = manifest.content_digest()
    (partial / MANIFEST).write_text(manifest.model_dump_json(indent=2), "utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial.rename(folder)
    logger.info(
        "%s: %s in %.1f s, digest %s", manifest.key, folder, manifest.seconds, manifest.digest[:12]
    )
