"""What a catalogue's list has, and what an index of it lacks."""

from pathlib import Path
from typing import Any

from product1m.artifacts.folder import open_artifact
from product1m.catalogue.intake import read_rows
from product1m.catalogue.store import CatalogueStore
from product1m.data.checking import erased_photos
from product1m.serving.catalogue_folder import MODEL, STEP


def status_of(store: CatalogueStore, index: Path | None = None) -> dict[str, Any]:
    """Facts by name: items, newest edit, erased photos, and the difference to an index."""
    lines = store.lines()
    edits = store.edits(1)
    state: dict[str, Any] = {
        "items": len(lines),
        "edits": edits[-1].number if edits else 0,
        "last_edit": edits[-1].at if edits else "none",
        "erased_photos": len(erased_photos(store.store)),
    }
    if index is not None:
        artifact = open_artifact(index, STEP)
        indexed = set(read_rows(artifact)["id"])
        checks = artifact.manifest.details["checks"]
        state |= {
            "indexed_items": len(indexed),
            "not_indexed_yet": len(lines.keys() - indexed),
            "indexed_but_removed": len(indexed - lines.keys()),
            "model": str(artifact.manifest.details[MODEL])[:12],
            "checks": "passed" if all(check["passed"] for check in checks) else "failed",
        }
    return state
