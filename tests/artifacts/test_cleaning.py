"""`product1m storage gc`: what no artifact names goes, and nothing else."""

import hashlib
import os
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from product1m.artifacts.cleaning import find_leftovers, remove_leftovers
from product1m.artifacts.folder import open_artifact, write_artifact
from product1m.artifacts.published import fetch_artifact
from product1m.cli.app import app
from product1m.config import IngestionConfig
from product1m.errors import ConfigError, StorageError
from product1m.storage.opening import open_store
from tests.support.servers.s3_server import BUCKET, S3Server

DAY_S = 86_400.0
IN_A_MONTH = time.time() + 30 * DAY_S


@pytest.fixture(params=["folder", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of a storage root."""
    if request.param == "folder":
        return str(tmp_path / "storage")
    server: S3Server = request.getfixturevalue("s3")
    del server
    return f"s3://{BUCKET}/gc-{tmp_path.name}"


def write(folder: Path, root: str, content: bytes) -> None:
    """An artifact whose only bulk file has this content."""
    with write_artifact(folder, "ingestion", IngestionConfig(), storage_root=root) as writer:
        (writer.folder / "images-00000.tar").write_bytes(content)
        writer.store(writer.folder / "images-00000.tar")


def upload(root: str, content: bytes, tmp_path: Path) -> str:
    """An object as a step uploads it before its manifest; its name."""
    digest = hashlib.sha256(content).hexdigest()
    name = f"objects/{digest[:2]}/{digest}.tar"
    (tmp_path / "uploaded").write_bytes(content)
    open_store(root).put(tmp_path / "uploaded", name, digest)
    return name


def test_only_old_objects_that_no_artifact_names_go(root: str, tmp_path: Path) -> None:
    write(tmp_path / "made", root, b"kept")
    write(tmp_path / "cached", f"{root}/catalogue/0123", b"of a cache below the root")
    left = upload(root, b"left by a killed step", tmp_path)
    assert find_leftovers(root, 14).unnamed == []
    assert find_leftovers(root, 14).young == 1

    found = find_leftovers(root, 14, now=IN_A_MONTH)
    assert [file.name for file in found.unnamed] == [left]
    assert (found.num_bytes, found.named, found.young) == (21, 2, 0)
    assert remove_leftovers(root, found) == 1
    assert find_leftovers(root, 14, now=IN_A_MONTH).unnamed == []
    (manifest,) = open_store(root).files("artifacts/ingestion/")
    fetch_artifact(open_store(root).address(manifest.name), tmp_path / "fetched")
    open_artifact(tmp_path / "fetched", "ingestion").verify()


def test_what_only_a_clusters_artifacts_name_stays(root: str, tmp_path: Path) -> None:
    """A cached task answers with its own copy of the manifest, whatever storage holds."""
    write(tmp_path / "pipeline-root" / "made", root, b"named elsewhere")
    (manifest,) = open_store(root).files("artifacts/")
    open_store(root).remove(manifest.name)
    assert len(find_leftovers(root, 14, now=IN_A_MONTH).unnamed) == 1
    cluster = str(tmp_path / "pipeline-root")
    assert find_leftovers(root, 14, [cluster], now=IN_A_MONTH).unnamed == []


def test_an_object_that_a_step_counts_on_again_is_young(tmp_path: Path) -> None:
    root = str(tmp_path / "storage")
    name = upload(root, b"made again by the step that was killed", tmp_path)
    month_ago = time.time() - 30 * DAY_S
    os.utime(Path(root) / name, (month_ago, month_ago))
    found = find_leftovers(root, 14)
    assert [file.name for file in found.unnamed] == [name]
    upload(root, b"made again by the step that was killed", tmp_path)
    assert find_leftovers(root, 14).young == 1
    assert remove_leftovers(root, found) == 0  # it was found before
    assert (Path(root) / name).exists()


def test_a_manifest_that_cannot_be_read_may_name_any_object(tmp_path: Path) -> None:
    root = tmp_path / "storage"
    upload(str(root), b"whose?", tmp_path)
    (root / "artifacts").mkdir()
    (root / "artifacts" / "manifest.json").write_text('{"schema_version": 1, "files": 3}', "utf-8")
    with pytest.raises(StorageError, match="it may name any object"):
        find_leftovers(str(root), 14)
    (root / "artifacts" / "manifest.json").write_text('{"name": "a web app"}', "utf-8")
    assert find_leftovers(str(root), 14).young == 1


def test_the_command_only_lists_unless_it_is_told_to_remove(tmp_path: Path) -> None:
    root = tmp_path / "storage"
    name = upload(str(root), b"left", tmp_path)
    os.utime(root / name, (1, 1))
    listed = CliRunner().invoke(app, ["storage", "gc", str(root)])
    assert "1 object that no artifact uses, 0.0 MB" in listed.output
    assert "nothing was removed; add --yes" in listed.output
    assert (root / name).exists()
    removed = CliRunner().invoke(app, ["storage", "gc", str(root), "--yes"])
    assert "1 object removed" in removed.output
    assert not (root / name).exists()
    with pytest.raises(ConfigError, match="expected 2 or more"):
        find_leftovers(str(root), 1)
