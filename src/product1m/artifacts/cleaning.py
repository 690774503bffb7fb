"""Objects in storage that no artifact uses: left by killed steps and by removed artifacts.

A step uploads its objects first and its manifest last. So an object that no manifest names is
either left over or belongs to a step in flight. The age tells them apart: a step that finds its
object there already writes it again, unless it is younger than a day (`storage.base.FRESH_S`).
Manifests are never removed, so whatever a cluster's cache answers with keeps its objects.
"""

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from pydantic import ValidationError

from product1m.artifacts.manifest import MANIFEST, Manifest
from product1m.artifacts.shards import OBJECTS, ShardId
from product1m.errors import ConfigError, StorageError
from product1m.storage.base import FRESH_S, Store, StoredFile
from product1m.storage.opening import open_store

DAY_S = 86_400.0
CLOCK_S = 1.0
"""Stores round times, and a listing may round them differently than a single object."""
MIN_AGE_DAYS = 1 + FRESH_S / DAY_S
"""A step in flight may count on an object that was written `FRESH_S` before, and takes up to a day
(ours)."""


@dataclass(frozen=True)
class Leftovers:
    """What a storage root holds, by whether it may be removed."""

    unnamed: list[StoredFile]
    """Objects that no manifest names and that are old enough, oldest first."""
    young: int
    """Objects that no manifest names, and that a step in flight may need."""
    named: int
    """Objects that a manifest names."""

    @property
    def num_bytes(self) -> int:
        """Total size of the objects that may be removed."""
        return sum(file.num_bytes for file in self.unnamed)


def find_leftovers(
    root: str, min_age_days: float, also_named_in: Iterable[str] = (), now: float | None = None
) -> Leftovers:
    """Look for objects that no manifest names.

    Args:
        root: storage root, as in `storage.root`, or a folder or prefix of several.
        min_age_days: younger objects may belong to a step in flight.
        also_named_in: further folders or `s3://` prefixes whose manifests count, such as the one
            where a cluster keeps the artifacts of its runs.
        now: seconds since 1970, by default the current time.

    Raises ConfigError for an age that a step in flight can exceed, StorageError for a manifest
    that cannot be read: it may name any object.
    """
    if min_age_days < MIN_AGE_DAYS:
        raise ConfigError(
            f"an age of {min_age_days:g} days: expected {MIN_AGE_DAYS:g} or more, because a step "
            "in flight needs objects that no manifest names yet"
        )
    store = open_store(root)
    files = list(store.files())
    objects = [file for file in files if OBJECTS in PurePosixPath(file.name).parts[:-1]]
    # Listed before the manifests are read, so an object that a later manifest names is young.
    named = set(_named(store, files))
    for address in also_named_in:
        other = open_store(address)
        named |= set(_named(other, other.files()))
    unnamed = [file for file in objects if PurePosixPath(file.name).name not in named]
    before = (now or time.time()) - min_age_days * DAY_S
    old = sorted((file for file in unnamed if file.written < before), key=lambda f: f.written)
    return Leftovers(old, len(unnamed) - len(old), len(objects) - len(unnamed))


def remove_leftovers(root: str, leftovers: Leftovers) -> int:
    """Remove what was found, except what was written again since; returns the number removed."""
    store, removed = open_store(root), 0
    for file in leftovers.unnamed:
        present = store.find(file.name)
        if present is None or present.written > file.written + CLOCK_S:
            continue
        store.remove(file.name)
        removed += 1
    return removed


def _named(store: Store, files: Iterable[StoredFile]) -> Iterator[str]:
    """Names of the objects of every artifact whose manifest is among some files."""
    for file in files:
        if PurePosixPath(file.name).name != MANIFEST:
            continue
        text = store.read(file.name)
        try:
            values = json.loads(text)
            if not isinstance(values, dict) or "schema_version" not in values:
                continue  # another program's
            manifest = Manifest.model_validate(values)
        except (ValueError, ValidationError) as error:
            raise StorageError(
                f"{store.address(file.name)}: not a manifest that this version reads "
                f"({str(error).splitlines()[0]}); nothing was removed, because it may name any "
                "object. Remove it if it is damaged"
            ) from error
        for name, entry in manifest.files.items():
            shard = ShardId(name, entry.sha256, entry.num_bytes)
            yield PurePosixPath(shard.place).name
