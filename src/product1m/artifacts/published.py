"""Published artifacts: their folders can be created again on any machine."""

from pathlib import Path

from product1m.artifacts.atomic import whole_folder
from product1m.artifacts.manifest import MANIFEST, parse_manifest
from product1m.artifacts.shards import ShardId, fetch_verified
from product1m.storage.base import checked_name
from product1m.storage.opening import open_file, open_store


def fetch_artifact(address: str, folder: Path) -> None:
    """Create the folder of a published artifact; its bulk files stay in storage.

    `address` is the address of its manifest. Raises ArtifactError if the artifact is damaged,
    NotStoredError if it does not exist.
    """
    store, name = open_file(address)
    content = store.read(name)
    manifest = parse_manifest(content, address, "its step")
    store = open_store(manifest.storage)
    with whole_folder(folder) as partial:
        for name, entry in manifest.files.items():
            if not entry.stored:
                path = partial / checked_name(name)
                path.parent.mkdir(parents=True, exist_ok=True)
                shard = ShardId(name, entry.sha256, entry.num_bytes)
                fetch_verified(store, shard, path, manifest.step)
        (partial / MANIFEST).write_bytes(content)
