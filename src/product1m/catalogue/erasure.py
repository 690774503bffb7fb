"""Erase items for good: photos, lines, features and vectors, and say what still holds them."""

import contextlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from product1m.artifacts.manifest import MANIFEST, Manifest
from product1m.artifacts.shards import OBJECTS
from product1m.catalogue.batches import KEYS
from product1m.catalogue.new_items import LIMITS
from product1m.catalogue.registering import live_version
from product1m.catalogue.store import LIST, LISTS, CatalogueStore, Edit, Line
from product1m.config import IngestionConfig
from product1m.data.checking import ERASED, digests_of
from product1m.data.intake import normalize_photo
from product1m.data.items import ITEMS, SOURCES
from product1m.data.limits import PhotoLimits
from product1m.data.lists import ListItem
from product1m.data.photo_sources import photos_of
from product1m.errors import StorageError
from product1m.registry.versions import list_versions
from product1m.retrieval.index import GALLERY
from product1m.storage.base import Store
from product1m.storage.folder import Folder, remove_unfinished_below
from product1m.storage.opening import open_store
from product1m.storage.scratch import scratch_folder
from product1m.telemetry.mlflow_client import download

TABLES = (ITEMS, SOURCES + ITEMS, GALLERY, KEYS)
"""Files of an artifact that name the photos it was made from, by digest."""


@dataclass(frozen=True)
class Erasure:
    """What was erased."""

    edit: Edit
    photos: list[str]
    """SHA-256 of the erased photos, as files and as they are stored."""


def erase_items(
    catalogue: CatalogueStore,
    ids: Collection[str],
    by: str,
    reason: str,
    limits: IngestionConfig = LIMITS,
) -> Erasure:
    """Erase items, and all others of the list that show the same photos.

    First the digests of the photos are kept, so that no step takes them in again; then the lines
    go, the photos, and every older list. An erasure that was killed after the lines were gone is
    finished by the next one of the same items. `limits` are the settings with which the pipeline
    stored the photos: another size of a photo has another digest.

    Raises DatasetError for an id that is not in the list, PhotoError if a photo cannot be read.
    """
    lines = catalogue.lines()
    begun = {} if set(ids) & lines.keys() else _begun(catalogue.store, ids)
    if begun:
        digests, names = set(begun), {name for mark in begun.values() for name in mark["photos"]}
        edit = catalogue.edits(1)[-1]
    else:
        lines = catalogue.known(ids)
        forms = {item: _forms(line, catalogue.store, limits) for item, line in lines.items()}
        digests = set().union(*(digests for _, digests in forms.values()))
        names = {name for name, _ in forms.values()} - {""}
        mark = json.dumps({"items": sorted(ids), "photos": sorted(names)}).encode()
        for digest in sorted(digests):
            catalogue.store.publish(f"{ERASED}{digest}", mark)
        everything = catalogue.lines()
        gone = {item for item, line in everything.items() if _name(line) in names} | set(ids)
        edit = catalogue.remove(sorted(gone), by, reason, "erase")
    for name in names:
        catalogue.store.remove(name)
    _remove_lists_before(edit, catalogue)
    return Erasure(edit, sorted(digests))


def _begun(store: Store, ids: Collection[str]) -> dict[str, dict[str, Any]]:
    """What an earlier erasure of these items noted, by the digests of the photos."""
    marks = {}
    for file in store.files(ERASED):
        with contextlib.suppress(ValueError):  # empty: of an older version
            marks[file.name.removeprefix(ERASED)] = json.loads(store.read(file.name))
    return {digest: mark for digest, mark in marks.items() if set(ids) <= {*mark["items"]}}


def _remove_lists_before(edit: Edit, catalogue: CatalogueStore) -> None:
    """Remove every list but those of an edit and of later ones.

    A list without an edit is about to get one, and is written again then.
    """
    kept = {other.list for other in catalogue.edits() if other.number >= edit.number}
    for file in list(catalogue.store.files(LISTS)):
        if file.name not in {f"{LISTS}{name}.jsonl" for name in kept}:
            catalogue.store.remove(file.name)


def _forms(line: Line, store: Store, limits: IngestionConfig) -> tuple[str, set[str]]:
    """Name of an item's photo in the store, if the store has it, and its digests."""
    item = ListItem(
        list_name=LIST,
        line=0,
        id=str(line["id"]),
        caption=str(line.get("caption", "")),
        image=str(line.get("image") or ""),
    )
    raw = photos_of(store.uri, store.uri, limits).read(item, limits.max_photo_bytes)
    stored = normalize_photo(raw, PhotoLimits.from_config(limits)).encoded
    return _name(line), digests_of(raw, stored)


def _name(line: Mapping[str, Any]) -> str:
    """Name of an item's photo in the store; empty if it is elsewhere or named by the item's id."""
    image = str(line.get("image") or "")
    return "" if "://" in image or not image else str(PurePosixPath(image))


def forget_vectors(cache: str, photos: Collection[str]) -> list[str]:
    """Remove every batch of features or vectors that holds one of the photos; their addresses.

    The rest of such a batch is computed again when an index is rebuilt. The manifest goes last and
    the tables first: so whoever was killed here is followed by one that finishes it, and by no
    refresh that reads half a batch.
    """
    store, removed = open_store(cache), []
    if isinstance(store, Folder):
        remove_unfinished_below(store.root)  # what a killed refresh was writing, photo and all
    for name, manifest in _manifests(store):
        tables = list(_tables(store, name, manifest))
        is_whole = len(tables) == len(manifest.files.keys() & set(TABLES))
        if is_whole and not _holds(tables, photos):
            continue
        prefix = name.partition("artifacts/")[0]
        for file in sorted(manifest.files, key=lambda file: file not in TABLES):
            for stored in list(store.files(_object(prefix, manifest.files[file].sha256))):
                store.remove(stored.name)
        store.remove(name)
        removed.append(store.address(name))
    return removed


def holders(places: Iterable[str], photos: Collection[str], model: str = "") -> list[str]:
    """Artifacts below some folders or `s3://` prefixes that still hold one of the photos.

    With `model`, also versions of this registered model of catalogues.
    """
    artifacts = []
    for place in places:
        store = open_store(place)
        for name, manifest in _manifests(store):
            if _holds(_tables(store, name, manifest), photos):
                artifacts.append(f"{store.address(name.removesuffix(MANIFEST))} ({manifest.key})")
    return [*artifacts, *_holding_versions(model, photos)] if model else artifacts


def _holding_versions(model: str, photos: Collection[str]) -> list[str]:
    versions = []
    live = live_version(model)
    for version in list_versions(model):
        with scratch_folder() as scratch:
            table = download(version.uri, GALLERY, scratch)
            if _holds([pq.read_table(table)], photos):
                served = ", served now" if live and live.number == version.number else ""
                versions.append(f"{version.title}{served}")
    return versions


def _manifests(store: Store) -> Iterator[tuple[str, Manifest]]:
    """Every manifest below an address that can be read, with its name."""
    for file in list(store.files()):
        if PurePosixPath(file.name).name != MANIFEST:
            continue
        try:
            yield file.name, Manifest.model_validate(json.loads(store.read(file.name)))
        except (ValueError, StorageError):  # another program's, or removed since the listing
            continue


def _tables(store: Store, name: str, manifest: Manifest) -> Iterator[pa.Table]:
    """The tables of an artifact that name photos: beside its manifest, or published as objects."""
    prefix, published, _ = name.partition("artifacts/")
    for table in TABLES:
        entry = manifest.files.get(table)
        if entry is None:
            continue
        beside = str(PurePosixPath(name).parent / table)
        objects = [file.name for file in store.files(_object(prefix, entry.sha256))]
        place = next(iter(objects if published else []), beside)
        if store.find(place) is not None:
            yield pq.read_table(pa.BufferReader(store.read(place)))


def _object(prefix: str, sha256: str) -> str:
    """How the name of a stored file begins."""
    return f"{prefix}{OBJECTS}/{sha256[:2]}/{sha256}"


def _holds(tables: Iterable[pa.Table], photos: Collection[str]) -> bool:
    wanted = set(photos)
    for table in tables:
        if "sha256" in table.column_names:
            known = set(table["sha256"].to_pylist())
        elif "key" in table.column_names:
            known = {key.partition("-")[0] for key in table["key"].to_pylist()}
        else:
            continue
        if known & wanted:
            return True
    return False
