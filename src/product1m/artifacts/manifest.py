"""`manifest.json`: what an artifact is, which files it has, and what it was made from."""

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from product1m import __version__
from product1m.errors import ArtifactError

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
SEAL = "manifest_digest"


class FileEntry(BaseModel):
    """A file of an artifact."""

    model_config = ConfigDict(frozen=True)

    sha256: str
    num_bytes: int
    timed: bool = False
    """It contains measured times, so it is not part of the artifact's digest."""
    stored: bool = False
    """It is in the manifest's `storage`, not in the folder."""


class Summary(BaseModel):
    """Facts about an artifact, also kept by every artifact that is made from it."""

    step: str
    part: str = ""
    """`train`, `gallery`, `queries` or `scenes` if a step writes or reads several artifacts."""
    config: dict[str, Any] = {}
    digest: str = ""
    """SHA-256 over the names and contents of the files, without the manifest."""
    code_version: str = __version__
    image: str = ""
    """Container image that wrote it, from `$PRODUCT1M_IMAGE`; empty outside containers."""
    metrics: dict[str, float] = {}
    details: dict[str, Any] = {}
    """Facts for readers: feature width, backbone, list of blocks, …"""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Processor time, including child processes that ended."""
    peak_memory_mib: float = 0.0
    peak_gpu_memory_mib: float = 0.0
    """0 if no GPU was used."""
    manifest_digest: str = ""
    """SHA-256 over every other value of `manifest.json`; empty in manifests written before this
    field existed."""

    @property
    def identity(self) -> str:
        """SHA-256 of what a reader depends on: step, part, config, details and content.

        Equal in every run with the same result, unlike `manifest_digest`, which covers times too.
        """
        facts = [self.step, self.part, self.config, self.details, self.digest]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @property
    def key(self) -> str:
        """Name of this artifact in a lineage: `step` or `step/part`."""
        return f"{self.step}/{self.part}" if self.part else self.step


class Manifest(Summary):
    """`manifest.json`."""

    schema_version: int = SCHEMA_VERSION
    inputs: dict[str, str] = {}
    """Name of an input to its digest."""
    files: dict[str, FileEntry] = {}
    storage: str = ""
    """Address of the store that contains the stored files."""
    lineage: dict[str, Summary] = {}
    """Summaries of all artifacts that this one was made from, by key."""

    def content_digest(self) -> str:
        """Digest of the listed files: the expected value of `digest`."""
        content = "\n".join(
            f"{name} {entry.sha256}" for name, entry in self.files.items() if not entry.timed
        )
        return hashlib.sha256(content.encode()).hexdigest()

    def sealed(self) -> str:
        """The JSON of `manifest.json`, with the digest of its values."""
        values = json.loads(self.model_dump_json())
        return json.dumps(values | {SEAL: _digest_of(values)}, indent=2, ensure_ascii=False)


def parse_manifest(content: str | bytes, address: str, step: str) -> Manifest:
    """A manifest from its JSON.

    Raises ArtifactError with its address for other content or schemas, and for values that were
    changed after it was written.
    """
    try:
        text = content if isinstance(content, str) else content.decode("utf-8")
        values = json.loads(text)
        version = values.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ArtifactError(
                f"{address}: schema version {version}, expected {SCHEMA_VERSION}; run {step} again"
            )
        stated = values.get(SEAL, "")
        if stated and stated != (actual := _digest_of(values)):
            raise ArtifactError(
                f"{address}: a value was changed after {step} wrote it: expected sha256 {stated}, "
                f"got {actual}; run {step} again"
            )
        if unknown := sorted(values.keys() - Manifest.model_fields.keys()):  # a damaged name
            raise ArtifactError(f"{address}: unknown value {unknown[0]!r:.80}; run {step} again")
        return Manifest.model_validate(values)
    except (ValueError, ValidationError, AttributeError, RecursionError) as error:
        raise ArtifactError(f"{address}: not a manifest ({error}); run {step} again") from error


def _digest_of(values: dict[str, Any]) -> str:
    others = {name: value for name, value in values.items() if name != SEAL}
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()


def published_name(manifest: Manifest) -> str:
    """Name of an artifact's manifest in its store."""
    return f"artifacts/{manifest.key}/{manifest.digest}/{MANIFEST}"
