"""The folder that a step writes: self-describing, digested, and whole or absent.

A folder contains files and a `manifest.json`. It is written under a hidden name and renamed at the
end, so a killed step leaves nothing that looks finished. A manifest contains the summaries of the
artifacts it was made from, so the last artifact knows the configuration, metrics and digests of
every step.

With a storage root, the bulk files of an artifact are stored there, named by their content, and
the folder contains only the manifest and tables.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

from product1m.artifacts.atomic import (
    partial_of,
    recover_replaced,
    replace_damaged,
    whole_folder,
)
from product1m.artifacts.manifest import (
    MANIFEST,
    FileEntry,
    Manifest,
    Summary,
    parse_manifest,
    published_name,
)
from product1m.artifacts.shards import (
    OBJECTS,
    Shard,
    ShardId,
    ShardUploads,
    check_stored,
    fits_scratch,
    require_stored,
    scratch_copy,
)
from product1m.config import StepConfig
from product1m.errors import ArtifactError, Product1MError
from product1m.storage.base import Store, sha256_of
from product1m.storage.folder import link_or_copy
from product1m.storage.locks import only_writer
from product1m.storage.opening import open_store
from product1m.telemetry.usage import Meter, Usage

logger = logging.getLogger(__name__)


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
        """True if bulk files are read on this machine, not part by part from storage."""
        return self._fits_scratch or self._store().local(OBJECTS) is not None

    def file(self, name: str) -> Path:
        """Path of a file; ArtifactError if it is damaged. Its digest is checked at the first use.

        A stored file is copied to the scratch folder, where it stays until others need the space.
        """
        if self._entry(name).stored:
            return self._whole(name)
        if name not in self._verified:
            self._verify(name, self.folder / name)
        return self.folder / name

    def shard(self, name: str) -> Shard:
        """A bulk file to read parts of.

        A stored set that is too large for the scratch folder is read part by part from the store.
        The reader then verifies each part by the digests in the tables.
        """
        if not self._entry(name).stored:
            return Shard("", name, self.file(name))
        path = self._whole(name) if self.is_here else None
        return Shard(self.manifest.storage, self._id(name).place, path)

    def names(self, pattern: str) -> list[str]:
        """Names of the files that match a glob, sorted."""
        return [name for name in sorted(self.manifest.files) if PurePosixPath(name).match(pattern)]

    def files(self, pattern: str) -> list[Path]:
        """Verified paths of the files that match a glob, sorted by name."""
        return [self.file(name) for name in self.names(pattern)]

    def verify(self) -> None:
        """Check every file; ArtifactError names the first damaged file and both digests.

        For a stored file, the size and the digest that the store keeps are compared.
        """
        for name, entry in self.manifest.files.items():
            if entry.stored:
                check_stored(self._store(), self._id(name), self.manifest.step)
            else:
                self.file(name)

    def take_from(self, other: "Artifact") -> list[str]:
        """Link the files that another artifact has too; the names of those that it has not.

        For an artifact of which only the manifest was fetched. A linked file is not read again.
        """
        same = {entry.sha256: name for name, entry in other.manifest.files.items()}
        missing = []
        for name, entry in self.manifest.files.items():
            try:
                if link_or_copy(other.file(same[entry.sha256]), self.folder / name):
                    self._verified.add(name)
            except (KeyError, Product1MError):
                missing.append(name)
        return missing

    def require_files(self) -> None:
        """Check that every file exists, without reading any; ArtifactError names a missing one.

        A cache can answer with an artifact whose files were deleted from the store.
        """
        for name, entry in self.manifest.files.items():
            if entry.stored:
                require_stored(self._store(), self._id(name), self.manifest.step)
            elif not (self.folder / name).is_file():
                raise self._missing(self.folder / name)

    def _missing(self, path: Path) -> ArtifactError:
        return ArtifactError(f"{path}: missing; run {self.manifest.step} again")

    def _entry(self, name: str) -> FileEntry:
        entry = self.manifest.files.get(name)
        if entry is None:
            known = ", ".join(sorted(self.manifest.files))
            raise ArtifactError(
                f"{self.folder / name}: not a file of this artifact; its files are {known}"
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
            raise self._missing(path)
        sha256 = sha256_of(path)
        if sha256 != entry.sha256:
            raise ArtifactError(
                f"{path}: damaged: expected sha256 {entry.sha256}, got {sha256}; "
                f"delete {self.folder} and run {self.manifest.step} again"
            )
        self._verified.add(name)


class ArtifactWriter:
    """An artifact being written; files go below `folder`, facts into `metrics` and `details`."""

    def __init__(self, folder: Path, manifest: Manifest, uploads: ShardUploads) -> None:
        self.folder = folder
        self.manifest = manifest
        self._uploads = uploads
        self.kept: dict[str, str] = {}
        """Names of files that are links to another artifact's, and their digests."""
        self.timed: set[str] = set()
        """Names of files with measured times. They differ between runs, so they are not part of
        the digest, which shows whether two runs gave the same result."""

    @property
    def metrics(self) -> dict[str, float]:
        """Scalars for MLflow, the summary and the registry."""
        return self.manifest.metrics

    @property
    def details(self) -> dict[str, Any]:
        """Facts for readers of this artifact."""
        return self.manifest.details

    def add_inputs(self, inputs: Mapping[str, Artifact]) -> None:
        """Record artifacts that this one is made from, with their lineage."""
        self.manifest.inputs |= {name: artifact.digest for name, artifact in inputs.items()}
        self.manifest.lineage |= _lineage(inputs)

    def store(self, path: Path) -> None:
        """Store a finished bulk file of `folder`; it moves to the storage root if there is one."""
        self._uploads.move(path, path.relative_to(self.folder).as_posix())

    def keep(self, artifact: Artifact, name: str, own_name: str) -> None:
        """Take over a file of another artifact: linked, so not read again, if disks allow it."""
        if link_or_copy(artifact.file(name), self.folder / own_name):
            self.kept[own_name] = artifact.manifest.files[name].sha256


def open_artifact(folder: Path, step: str, part: str = "") -> Artifact:
    """Open an artifact of `step`.

    Raises ArtifactError if it is missing, unfinished, of another step, part or schema.
    """
    path = folder / MANIFEST
    if not path.is_file():
        recover_replaced(folder)
    if not path.is_file():
        raise ArtifactError(
            f"{folder}: no {MANIFEST}; expected a finished artifact of {step}; run this step first"
        )
    manifest = parse_manifest(path.read_bytes(), str(path), step)
    if manifest.step != step or (part and manifest.part != part):
        raise ArtifactError(
            f"{folder}: expected an artifact of {step} {part}, got one of {manifest.key}"
        )
    return Artifact(folder, manifest)


def part_of(folder: Path) -> str:
    """The part that an artifact names in its manifest; empty if that cannot be read."""
    try:
        return str(json.loads((folder / MANIFEST).read_text("utf-8"))["part"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):  # explained on opening
        return ""


def identity_of(folder: Path) -> dict[str, str]:
    """An artifact's `identity` by that name; empty if there is no artifact."""
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    return {"identity": parse_manifest(path.read_bytes(), str(path), "its step").identity}


@contextmanager
def write_artifact(
    folder: Path,
    step: str,
    config: StepConfig,
    inputs: Mapping[str, Artifact] | None = None,
    part: str = "",
    storage_root: str = "",
) -> Iterator[ArtifactWriter]:
    """Write an artifact; `folder` appears, whole, when the block ends without an error.

    An older artifact at `folder` is replaced then; any other content is refused at once. With a
    storage root, a folder or `s3://` prefix, bulk files are stored there, and the artifact is
    published there too, so that `published.fetch_artifact` can create its folder anywhere. Raises
    LockedError if another run is writing `folder`.
    """
    with only_writer(folder):
        _refuse_other_content(folder)
        with _written(folder, step, config, inputs or {}, part, storage_root) as writer:
            yield writer


@contextmanager
def _written(
    folder: Path,
    step: str,
    config: StepConfig,
    inputs: Mapping[str, Artifact],
    part: str,
    storage_root: str,
) -> Iterator[ArtifactWriter]:
    store = open_store(storage_root) if storage_root else None
    manifest = _new_manifest(step, part, config, inputs, store)
    meter = Meter()
    with whole_folder(folder) as partial:
        with closing(ShardUploads(store)) as uploads:
            writer = ArtifactWriter(partial, manifest, uploads)
            yield writer
            for shard in uploads.finish():
                manifest.files[shard.name] = FileEntry(
                    sha256=shard.sha256, num_bytes=shard.num_bytes, stored=True
                )
        for name, value in asdict(meter.read()).items():
            setattr(manifest, name, value)
        _finish(partial, manifest, writer)
    cost = manifest.model_dump(include=set(Usage.__annotations__))
    figures = (manifest.key, folder, manifest.seconds, manifest.digest[:12])
    logger.info("%s: %s in %.1f s, digest %s", *figures, extra={"fields": cost})


def _refuse_other_content(folder: Path) -> None:
    """ArtifactError unless an artifact, nothing, or the rest of a replaced artifact is there."""
    recover_replaced(folder)
    if folder.is_dir() and (not any(folder.iterdir()) or (folder / MANIFEST).is_file()):
        return
    if folder.is_dir() and _is_complete(partial_of(folder)):
        logger.warning("%s: half removed; using the new artifact that is complete", folder)
        replace_damaged(folder)
    elif folder.exists():
        raise ArtifactError(
            f"{folder}: contains something that is not an artifact; choose an empty or new folder"
        )


def _is_complete(folder: Path) -> bool:
    """Whether a folder holds an undamaged artifact of any step."""
    try:
        content = (folder / MANIFEST).read_bytes()
        Artifact(folder, parse_manifest(content, str(folder), "its step")).verify()
    except (OSError, Product1MError):
        return False
    return True


def _new_manifest(
    step: str,
    part: str,
    config: StepConfig,
    inputs: Mapping[str, Artifact],
    store: Store | None,
) -> Manifest:
    return Manifest(
        step=step,
        part=part,
        image=os.environ.get("PRODUCT1M_IMAGE", ""),
        config=config.model_dump(mode="json"),
        inputs={name: artifact.digest for name, artifact in inputs.items()},
        storage=store.uri if store else "",
        lineage=_lineage(inputs),
    )


def _lineage(inputs: Mapping[str, Artifact]) -> dict[str, Summary]:
    lineage: dict[str, Summary] = {}
    for artifact in inputs.values():
        lineage |= artifact.manifest.lineage
        lineage[artifact.manifest.key] = Summary.model_validate(
            artifact.manifest.model_dump(include=set(Summary.model_fields))
        )
    return lineage


def _finish(partial: Path, manifest: Manifest, writer: ArtifactWriter) -> None:
    for path in partial.rglob("*"):
        if path.is_file():
            name = path.relative_to(partial).as_posix()
            manifest.files[name] = FileEntry(
                sha256=writer.kept.get(name) or sha256_of(path),
                num_bytes=path.stat().st_size,
                timed=name in writer.timed,
            )
    # In the order of paths, so that the digest does not depend on where a file is stored.
    manifest.files = dict(sorted(manifest.files.items(), key=lambda item: PurePosixPath(item[0])))
    manifest.digest = manifest.content_digest()
    (partial / MANIFEST).write_text(manifest.sealed(), "utf-8")
    if manifest.storage:
        _publish(partial, manifest)


def _publish(partial: Path, manifest: Manifest) -> None:
    """Store the files of the folder and then the manifest, which makes the artifact complete."""
    store = open_store(manifest.storage)
    for name, entry in manifest.files.items():
        if not entry.stored:
            place = ShardId(name, entry.sha256, entry.num_bytes).place
            store.put(partial / name, place, entry.sha256)
    place = published_name(manifest)
    if store.publish(place, (partial / MANIFEST).read_bytes()):
        logger.info("%s: published as %s", manifest.key, store.address(place))
    else:
        logger.info("%s: %s exists already", manifest.key, store.address(place))
