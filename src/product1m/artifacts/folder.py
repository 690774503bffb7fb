"""The folder a step writes: self-describing, complete, digested, and whole or absent.

A folder holds its files and a `manifest.json`. It is written as a hidden sibling and renamed when
whole, so a killed step leaves nothing that looks finished. A manifest carries its ancestors'
summaries, so the last artifact knows every step's configuration, metrics and digests.

With a storage root the bulk files of an artifact lie there, named by their content, and the folder
holds its manifest and tables only.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from product1m import __version__
from product1m.artifacts.atomic import whole_folder
from product1m.artifacts.shards import (
    OBJECTS,
    Shard,
    ShardId,
    ShardUploads,
    check_stored,
    fits_scratch,
    scratch_copy,
)
from product1m.config import StepConfig
from product1m.errors import ArtifactError
from product1m.storage.base import Store, sha256_of
from product1m.storage.opening import open_store
from product1m.telemetry.usage import Meter, Usage

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"


class FileEntry(BaseModel):
    """A file of an artifact."""

    model_config = ConfigDict(frozen=True)

    sha256: str
    num_bytes: int
    timed: bool = False
    """Holds what a clock measured, so it is no part of the artifact's digest."""
    stored: bool = False
    """It lies in the manifest's `storage`, not in the folder."""


class Summary(BaseModel):
    """What an artifact says of itself, and of each ancestor."""

    step: str
    part: str = ""
    """`train`, `gallery`, `queries` or `scenes` where a step writes or reads several."""
    config: dict[str, Any] = {}
    digest: str = ""
    """SHA-256 over the artifact's files and their names; the manifest itself is not in it."""
    code_version: str = __version__
    image: str = ""
    """Container image that wrote it, as `$PRODUCT1M_IMAGE` names it; empty outside containers."""
    metrics: dict[str, float] = {}
    details: dict[str, Any] = {}
    """What a reader needs to know: feature width, backbone, list of blocks, …"""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Processor time, children that ended included."""
    peak_memory_mib: float = 0.0
    peak_gpu_memory_mib: float = 0.0
    """0 where no GPU was used."""

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
    storage: str = ""
    """Address below which the stored files lie."""
    lineage: dict[str, Summary] = {}
    """Every ancestor's summary by key."""

    def content_digest(self) -> str:
        """What `digest` has to be, from the files as they are listed."""
        content = "\n".join(
            f"{name} {entry.sha256}" for name, entry in self.files.items() if not entry.timed
        )
        return hashlib.sha256(content.encode()).hexdigest()


class Artifact:
    """A finished artifact folder, opened for reading."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._verified: set[str] = set()
        stored = [entry.num_bytes for entry in manifest.files.values() if entry.stored]
        self._fits_scratch = not stored or fits_scratch(sum(stored))

    @property
    def digest(self) -> str:
        """SHA-256 over the content of the artifact's files."""
        return self.manifest.digest

    @property
    def is_here(self) -> bool:
        """Its bulk files are read on this machine, not part by part from storage."""
        return self._fits_scratch or self._store().local(OBJECTS) is not None

    def file(self, name: str) -> Path:
        """Path of a file, its digest checked at the first use; ArtifactError if it is damaged.

        A stored file is copied to scratch, where it stays until others need the room.
        """
        if self._entry(name).stored:
            return self._whole(name)
        if name not in self._verified:
            self._verify(name, self.folder / name)
        return self.folder / name

    def shard(self, name: str) -> Shard:
        """A bulk file to read parts of.

        A stored set that is too large for scratch is read part by part where it lies; then the
        reader verifies what it gets, by the digests in the tables.
        """
        if not self._entry(name).stored:
            return Shard("", name, self.file(name))
        path = self._whole(name) if self.is_here else None
        return Shard(self.manifest.storage, self._id(name).place, path)

    def files(self, pattern: str) -> list[Path]:
        """Verified paths of the artifact's files that match a glob, sorted by name."""
        return [
            self.file(name) for name in sorted(self.manifest.files) if Path(name).match(pattern)
        ]

    def verify(self) -> None:
        """Check every file; ArtifactError names the first damaged one and both digests.

        Of a stored file the size and the digest that the store keeps are compared.
        """
        for name, entry in self.manifest.files.items():
            if entry.stored:
                check_stored(self._store(), self._id(name), self.manifest.step)
            else:
                self.file(name)

    def _entry(self, name: str) -> FileEntry:
        entry = self.manifest.files.get(name)
        if entry is None:
            known = ", ".join(sorted(self.manifest.files))
            raise ArtifactError(
                f"{self.folder / name}: not a file of this artifact; it has {known}"
            )
        return entry

    def _store(self) -> Store:
        return open_store(self.manifest.storage)

    def _id(self, name: str) -> ShardId:
        entry = self._entry(name)
        return ShardId(name, entry.sha256, entry.num_bytes)

    def _whole(self, name: str) -> Path:
        store, shard = self._store(), self._id(name)
        path = store.local(shard.place)
        if path is None:
            return scratch_copy(store, shard, self.manifest.step)
        if name not in self._verified:
            self._verify(name, path)
        return path

    def _verify(self, name: str, path: Path) -> None:
        entry = self._entry(name)
        if not path.is_file():
            raise ArtifactError(f"{path}: missing; run {self.manifest.step} again")
        found = sha256_of(path)
        if found != entry.sha256:
            raise ArtifactError(
                f"{path}: damaged: expected sha256 {entry.sha256}, got {found}; "
                f"delete {self.folder} and run {self.manifest.step} again"
            )
        self._verified.add(name)


class ArtifactWriter:
    """An artifact being written; files go below `folder`, facts into `metrics` and `details`."""

    def __init__(self, folder: Path, manifest: Manifest, uploads: ShardUploads) -> None:
        self.folder = folder
        self.manifest = manifest
        self._uploads = uploads
        self.timed: set[str] = set()
        """Names of files with measured times: every run writes them anew, so the digest, which
        says whether two runs made the same, leaves them out."""

    @property
    def metrics(self) -> dict[str, float]:
        """Scalars for MLflow, the summary and the registry."""
        return self.manifest.metrics

    @property
    def details(self) -> dict[str, Any]:
        """What a reader of this artifact needs to know."""
        return self.manifest.details

    def add_inputs(self, inputs: Mapping[str, Artifact]) -> None:
        """Record artifacts that this one is made from, with their ancestors' summaries."""
        self.manifest.inputs |= {name: artifact.digest for name, artifact in inputs.items()}
        self.manifest.lineage |= _lineage(inputs)

    def store(self, path: Path) -> None:
        """Hand over a bulk file of `folder` that is finished: with a storage root it goes there."""
        self._uploads.move(path, path.relative_to(self.folder).as_posix())


def open_artifact(folder: Path, step: str, part: str = "") -> Artifact:
    """Open what `step` wrote.

    Raises ArtifactError if it is absent, unfinished, of another step or part, or of another schema.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(
            f"{folder}: no {MANIFEST}; expected a finished artifact of {step}: run it first"
        )
    manifest = parse_manifest(path.read_text("utf-8"), str(path), step)
    if manifest.step != step or (part and manifest.part != part):
        raise ArtifactError(
            f"{folder}: expected an artifact of {step} {part}, got one of {manifest.key}"
        )
    return Artifact(folder, manifest)


def part_of(folder: Path) -> str:
    """The part that an artifact says it is; empty where nothing readable is there."""
    try:
        return str(json.loads((folder / MANIFEST).read_text("utf-8"))["part"])
    except (OSError, ValueError, LookupError, TypeError):  # opening it says what is wrong
        return ""


@contextmanager
def write_artifact(
    folder: Path,
    step: str,
    config: StepConfig,
    inputs: Mapping[str, Artifact] | None = None,
    part: str = "",
    storage_root: str = "",
) -> Iterator[ArtifactWriter]:
    """Write an artifact at `folder`; it appears there, whole, when the block ends without an error.

    An older artifact at `folder` is replaced then. Anything else there is refused at once. With a
    storage root, a folder or `s3://` prefix, bulk files go there, and the artifact is published
    there too, so that `published.fetch_artifact` can make its folder
    anywhere.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise ArtifactError(
            f"{folder}: holds something that is not an artifact; choose an empty or new folder"
        )
    inputs = inputs or {}
    manifest = Manifest(
        step=step,
        part=part,
        image=os.environ.get("PRODUCT1M_IMAGE", ""),
        config=config.model_dump(mode="json"),
        inputs={name: artifact.digest for name, artifact in inputs.items()},
        storage=open_store(storage_root).uri if storage_root else "",
        lineage=_lineage(inputs),
    )
    meter = Meter()
    uploads = ShardUploads(open_store(storage_root) if storage_root else None)
    with whole_folder(folder) as partial:
        try:
            writer = ArtifactWriter(partial, manifest, uploads)
            yield writer
            for shard in uploads.finish():
                manifest.files[shard.name] = FileEntry(
                    sha256=shard.sha256, num_bytes=shard.num_bytes, stored=True
                )
        finally:
            uploads.close()
        for name, value in asdict(meter.read()).items():
            setattr(manifest, name, value)
        _finish(partial, manifest, writer.timed)
    cost = manifest.model_dump(include=set(Usage.__annotations__))
    figures = (manifest.key, folder, manifest.seconds, manifest.digest[:12])
    logger.info("%s: %s in %.1f s, digest %s", *figures, extra={"fields": cost})


def published_name(manifest: Manifest) -> str:
    """Where below its storage root an artifact's manifest lies."""
    return f"artifacts/{manifest.key}/{manifest.digest}/{MANIFEST}"


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


def parse_manifest(text: str, address: str, step: str) -> Manifest:
    """A manifest from its JSON; ArtifactError with its address if it is none of this schema."""
    try:
        values = json.loads(text)
        version = values.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ArtifactError(
                f"{address}: schema version {version}, this code reads {SCHEMA_VERSION}; "
                f"run {step} again"
            )
        return Manifest.model_validate(values)
    except (ValueError, ValidationError, AttributeError) as error:
        raise ArtifactError(f"{address}: not a manifest ({error}); run {step} again") from error


def _lineage(inputs: Mapping[str, Artifact]) -> dict[str, Summary]:
    lineage: dict[str, Summary] = {}
    for artifact in inputs.values():
        lineage |= artifact.manifest.lineage
        lineage[artifact.manifest.key] = Summary.model_validate(
            artifact.manifest.model_dump(include=set(Summary.model_fields))
        )
    return lineage


def _finish(partial: Path, manifest: Manifest, timed: set[str]) -> None:
    for path in partial.rglob("*"):
        if path.is_file():
            name = path.relative_to(partial).as_posix()
            manifest.files[name] = FileEntry(
                sha256=sha256_of(path), num_bytes=path.stat().st_size, timed=name in timed
            )
    # In the order of paths, so that the digest does not tell where a file lies.
    manifest.files = dict(sorted(manifest.files.items(), key=lambda item: PurePosixPath(item[0])))
    manifest.digest = manifest.content_digest()
    (partial / MANIFEST).write_text(manifest.model_dump_json(indent=2), "utf-8")
    if manifest.storage:
        _publish(partial, manifest)


def _publish(partial: Path, manifest: Manifest) -> None:
    """Store what the folder holds, the manifest last: with it the artifact is there, whole."""
    store = open_store(manifest.storage)
    for name, entry in manifest.files.items():
        if not entry.stored:
            place = ShardId(name, entry.sha256, entry.num_bytes).place
            store.put(partial / name, place, entry.sha256)
    place = published_name(manifest)
    if store.publish(place, (partial / MANIFEST).read_bytes()):
        logger.info("%s: published as %s", manifest.key, store.address(place))
    else:
        logger.info("%s: %s is there already", manifest.key, store.address(place))
