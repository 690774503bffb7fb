"""S3 in the long run: many faults at once, several reads, names that exclude each other."""

import hashlib
import json
import os
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from product1m.artifacts.folder import open_artifact
from product1m.artifacts.manifest import published_name
from product1m.artifacts.published import fetch_artifact
from product1m.artifacts.shards import ShardId, check_stored, fetch_verified
from product1m.cli.app import app
from product1m.data.regions import FeatureSet
from product1m.errors import ArtifactError, StorageError
from product1m.storage import s3_client
from product1m.storage.base import agreed
from product1m.storage.opening import open_store
from tests.support.paths import ROOT
from tests.support.servers.fault_proxy import EVERY_FAULT, FaultProxy, running_proxy
from tests.support.servers.s3_server import BUCKET, S3Server
from tests.support.worlds.stored_features import NUM_ITEMS, regions_of, write_features

MIB = 1 << 20
PART_BYTES = 5 * MIB
SHARE = 0.4
"""Of all requests that have a fault."""
FAULTS = tuple(fault for fault in EVERY_FAULT if fault != "stall")
"""`trickle` is the slow one that does not take seconds."""


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy before the server; the environment names it, and waits are short."""
    monkeypatch.setattr(s3_client, "READ_TIMEOUT_S", 2.0)
    monkeypatch.setattr(s3_client, "MAX_BACKOFF_S", 0.01)
    monkeypatch.setattr(s3_client, "PART_BYTES", PART_BYTES)
    monkeypatch.setattr(
        "botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01
    )
    with running_proxy(s3.port) as proxy:
        for name, value in s3.environment(proxy.port).items():
            monkeypatch.setenv(name, value)
        open_store(f"s3://{BUCKET}/answers").publish("once", b"so that faults are known to pass")
        yield proxy


def check_every_operation(folder: Path, prefix: str) -> None:
    """Write and read small and large files, and one artifact, and compare what comes back."""
    store = open_store(f"s3://{BUCKET}/{prefix}")
    content = os.urandom(100_000)
    assert store.publish("small", content) is True
    assert store.publish("small", b"other") is False
    assert store.read("small") == content
    part = agreed(lambda: store.read_range("small", 50_000, 1000), bytes)
    assert part == content[50_000:51_000]
    large = os.urandom(2 * PART_BYTES + MIB)
    sha256 = hashlib.sha256(large).hexdigest()
    (folder / "large").write_bytes(large)
    shard = ShardId("images.tar", sha256, len(large))
    store.put(folder / "large", shard.place, sha256)
    check_stored(store, shard, "ingestion")
    fetch_verified(store, shard, folder / "verified", "ingestion")
    store.fetch(shard.place, folder / "agreed")
    for name in ("verified", "agreed"):
        assert (folder / name).read_bytes() == large
    assert {file.name: file.num_bytes for file in store.files()} == {
        "small": 100_000,
        shard.place: len(large),
    }


@pytest.mark.parametrize("seed", range(3))
def test_every_operation_comes_out_right_with_two_in_five_requests_faulty(
    proxy: FaultProxy, tmp_path: Path, seed: int
) -> None:
    proxy.inject_always(SHARE, FAULTS, seed)
    check_every_operation(tmp_path, f"{tmp_path.name}-{seed}")


@pytest.mark.parametrize("scratch", ["8192", "0"])
def test_an_artifact_comes_out_right_with_two_in_five_requests_faulty(
    proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scratch: str
) -> None:
    """Read whole, and row by row."""
    monkeypatch.setenv("PRODUCT1M_SCRATCH_MIB", scratch)
    expected = write_features(tmp_path / "here").digest
    proxy.inject_always(SHARE, FAULTS, seed=7)
    root = f"s3://{BUCKET}/{tmp_path.name}"
    artifact = write_features(tmp_path / "features", root)
    assert artifact.digest == expected
    fetch_artifact(open_store(root).address(published_name(artifact.manifest)), tmp_path / "there")
    fetched = open_artifact(tmp_path / "there", "feature_extraction", "train")
    fetched.verify()
    for number, regions in enumerate(FeatureSet(fetched).many(range(NUM_ITEMS))):
        np.testing.assert_array_equal(regions.features, regions_of(number).features)


@pytest.mark.slow
def test_a_campaign_of_operations_with_two_in_five_requests_faulty(
    proxy: FaultProxy, tmp_path: Path
) -> None:
    """Prints how many of the attempts failed; all must succeed."""
    failures: list[str] = []
    attempts = 60
    proxy.inject_always(SHARE, FAULTS, seed=0)
    for number in range(attempts):
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            check_every_operation(folder, f"{tmp_path.name}/{number}")
        except (StorageError, ArtifactError, AssertionError) as error:
            failures.append(f"{number}: {type(error).__name__} {error}")
    requests = len(proxy.requests)
    figures = {"attempts": attempts, "failures": failures, "requests": requests}
    sys.stdout.write(f"{json.dumps(figures)}\n")
    assert failures == []


def test_a_damaged_object_is_named_after_a_second_read(
    proxy: FaultProxy, s3: S3Server, tmp_path: Path
) -> None:
    content = os.urandom(MIB)
    shard = ShardId("images.tar", hashlib.sha256(b"other").hexdigest(), MIB)
    store = open_store(f"s3://{BUCKET}/{tmp_path.name}")
    s3.client().put_object(Bucket=BUCKET, Key=f"{tmp_path.name}/{shard.place}", Body=content)
    with pytest.raises(ArtifactError, match=hashlib.sha256(content).hexdigest()):
        fetch_verified(store, shard, tmp_path / "back", "ingestion")


def test_a_page_instead_of_s3_is_an_error(
    proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_client, "ATTEMPTS", 2)
    store = open_store(f"s3://{BUCKET}/{tmp_path.name}")
    store.publish("file", b"content")
    proxy.inject_always(1.0, ("page",), seed=0)
    for ask in (
        lambda: store.read("file"),
        lambda: store.find("file"),
        lambda: list(store.files()),
        lambda: store.publish("new", b"content"),
    ):
        with pytest.raises(StorageError, match=r"sent .*(text/html|not S3's)|answered 500"):
            ask()


def test_a_name_below_which_something_lies_is_named_as_that(s3: S3Server, tmp_path: Path) -> None:
    store = open_store(f"s3://{BUCKET}/{tmp_path.name}")
    store.publish("artifacts/one/manifest.json", b"{}")
    message = rf"s3://{BUCKET}/.*/artifacts/one: cannot be written, because .*/one/manifest.json"
    with pytest.raises(StorageError, match=message):
        store.publish("artifacts/one", b"x")


def test_unfinished_uploads_are_removed_once_they_are_old(s3: S3Server, tmp_path: Path) -> None:
    client, keys = s3.client(), (f"{tmp_path.name}/objects/ab/shard", "other/shard")
    for key in keys:
        upload = client.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
        client.upload_part(Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=1, Body=b"x" * MIB)
    address = f"s3://{BUCKET}/{tmp_path.name}"
    command = ["clean-uploads", address, "--older-than-hours"]
    assert CliRunner().invoke(app, [*command, "1"]).stdout == "0 unfinished uploads aborted\n"
    aborted = CliRunner().invoke(app, [*command, "0"]).stdout.splitlines()
    assert aborted == [f"s3://{BUCKET}/{keys[0]}", "1 unfinished uploads aborted"]
    left = client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    assert {entry["Key"] for entry in left}.intersection(keys) == {keys[1]}


def test_the_job_of_the_local_overlay_removes_unfinished_uploads(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same script, for which every upload is old."""
    client, key = s3.client(), "objects/cd/shard"
    for bucket in ("mlflow", "product1m"):
        client.create_bucket(Bucket=bucket)
        client.create_multipart_upload(Bucket=bucket, Key=key)
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://127.0.0.1:{s3.port}")
    script = ROOT / "manifests/overlays/local/stores/clean_uploads.py"
    runpy.run_path(str(script))
    assert "product1m: 0 of 1 unfinished uploads aborted" in capsys.readouterr().out
    old = script.read_text().replace("timedelta(days=1)", "timedelta(0)")
    exec(compile(old, str(script), "exec"), {})
    assert "product1m: 1 of 1 unfinished uploads aborted" in capsys.readouterr().out
    assert not client.list_multipart_uploads(Bucket="product1m").get("Uploads")
