"""What is killed while it writes into a store: ingestion below `s3://`, edits of a catalogue.

A store is `SANDBOX/shop`, or in a campaign with an S3 server the prefix of that name.
"""

import json
import os
from pathlib import Path
from typing import Any

from product1m.artifacts.folder import open_artifact
from product1m.catalogue.erasure import erase_items
from product1m.catalogue.new_items import from_dataset
from product1m.catalogue.store import CatalogueStore
from product1m.data.checking import ERASED
from product1m.data.lists import PHOTO_FOLDER
from product1m.steps import ingestion
from product1m.storage.opening import open_store
from tests.support.servers.s3_server import BUCKET
from tests.support.worlds.tiny_chain import CONFIG

PARTS = ("train", "gallery", "queries")
ERASED_ITEM, REMOVED_ITEM, REPLACED_ITEM = "gallery-0", "gallery-1", "gallery-2"


def ingest_into_s3(world: Path, sandbox: Path) -> None:
    """Ingestion with a storage root on S3."""
    folders = [sandbox / "out" / part for part in PARTS]
    ingestion.run(
        str(world / "dataset"),
        folders[0],
        folders[1],
        folders[2],
        CONFIG.ingestion,
        _address(sandbox),
    )


def ingested(sandbox: Path) -> dict[str, Any]:
    """Digests of the artifacts, whose files are all there, and names of every file and object."""
    digests = {}
    for part in PARTS:
        artifact = open_artifact(sandbox / "out" / part, "ingestion", part)
        artifact.verify()
        digests[part] = artifact.digest
    objects = sorted(file.name for file in open_store(_address(sandbox)).files())
    files = sorted(str(path.relative_to(sandbox)) for path in sandbox.rglob("*"))
    return {"digests": digests, "objects": objects, "files": files}


def fill_catalogue(world: Path, sandbox: Path) -> None:
    """A catalogue of three items, after two edits."""
    store = CatalogueStore(_address(sandbox))
    items = {item.id: item for item in from_dataset(str(world / "dataset"))}
    store.add([items[ERASED_ITEM]], "Ann")
    store.add([items[REMOVED_ITEM], items[REPLACED_ITEM]], "Ann")


def add(world: Path, sandbox: Path) -> None:
    """Add an item and replace another."""
    items = {item.id: item for item in from_dataset(str(world / "dataset"))}
    CatalogueStore(_address(sandbox)).add([items["gallery-3"], items[REPLACED_ITEM]], "Bo")


def remove(world: Path, sandbox: Path) -> None:
    """Remove an item that is there, and edit on."""
    store = CatalogueStore(_address(sandbox))
    if REMOVED_ITEM in store.lines():
        store.remove([REMOVED_ITEM], "Bo")
    add(world, sandbox)


def erase(_world: Path, sandbox: Path) -> None:
    """Erase an item, as somebody does who does not know whether it worked, and edit on."""
    erase_items(CatalogueStore(_address(sandbox)), [ERASED_ITEM], "Bo", "demand")
    CatalogueStore(_address(sandbox)).remove([], "Bo")


def catalogue(sandbox: Path) -> dict[str, Any]:
    """What a user finds: items, photos, marks of erased ones; every list is the newest edit's."""
    shop = CatalogueStore(_address(sandbox))
    lines = shop.lines()
    edits = shop.edits()
    names = [file.name for file in shop.store.files()]
    lists = [name for name in names if name.startswith("lists/")]
    known = {f"lists/{edit.list}.jsonl" for edit in edits}
    written = [json.loads(line) for line in shop.store.read("gallery.jsonl").splitlines()]
    return {
        "lines": lines,
        "list": written,
        "photos": sorted(name for name in names if name.startswith(f"{PHOTO_FOLDER}/")),
        "erased": sorted(name for name in names if name.startswith(ERASED)),
        "numbers are gapless": [e.number for e in edits] == list(range(1, len(edits) + 1)),
        "lists without an edit": sorted(set(lists) - known),
        "hidden": [str(p.relative_to(sandbox)) for p in sandbox.rglob(".*")],
    }


def _address(sandbox: Path) -> str:
    if "AWS_ENDPOINT_URL" in os.environ:
        return f"s3://{BUCKET}/{sandbox.name}"
    return str(sandbox / "shop")
