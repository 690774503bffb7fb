"""Artifacts whose manifests were changed by hand, as if by an older version."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def rewrite_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest in place; it loses the digest of its values, as old manifests have none."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    del manifest["manifest_digest"]
    change(manifest)
    path.write_text(json.dumps(manifest), "utf-8")
