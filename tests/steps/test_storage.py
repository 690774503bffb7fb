"""Steps over S3: artifacts equal to local ones, read back whole or part by part, never half."""

import hashlib
import json
import re
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from product1m.artifacts.folder import Artifact, open_artifact, write_artifact
from product1m.artifacts.manifest import published_name
from product1m.artifacts.published import fetch_artifact
from product1m.capture.tokens import SPECIAL, bert_tokenizer
from product1m.cli.app import app
from product1m.config import IngestionConfig
from product1m.data.items import ItemTable
from product1m.data.regions import FeatureSet
from product1m.detection.backbone import Backbone
from product1m.detection.proposals import MODEL, NetworkSettings, ProposalNetwork
from product1m.errors import ArtifactError, ConfigError, NotStoredError
from product1m.steps import background_synthesis, feature_extraction, ingestion
from product1m.storage.opening import open_store
from tests.support.servers.s3_server import BUCKET, S3Server
from tests.support.worlds import tiny_chain
from tests.support.worlds.small_datasets import small_dataset
from tests.support.worlds.stored_features import NUM_ITEMS, regions_of, write_features
from tests.support.worlds.tiny_scenes import RPN

ROLES = ("train", "gallery", "queries")
INGESTION = IngestionConfig(num_workers=2)


@pytest.fixture
def root(s3: S3Server, tmp_path: Path) -> str:
    """A storage root of this test's own."""
    return f"s3://{BUCKET}/{tmp_path.name}/root"


@pytest.fixture(params=["whole", "in parts"])
def scratch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether a set fits into scratch, or has to be read part by part."""
    if request.param == "in parts":
        monkeypatch.setenv("PRODUCT1M_SCRATCH_MIB", "0")
    return str(request.param)


def outputs(folder: Path) -> tuple[Path, Path, Path]:
    """Where ingestion writes its three artifacts."""
    return folder / "train", folder / "gallery", folder / "queries"


def objects(artifact: Artifact, suffix: str) -> list[str]:
    """Keys of an artifact's stored files."""
    prefix = artifact.manifest.storage.removeprefix(f"s3://{BUCKET}/")
    return [
        f"{prefix}/objects/{entry.sha256[:2]}/{entry.sha256}{suffix}"
        for name, entry in artifact.manifest.files.items()
        if entry.stored and name.endswith(suffix)
    ]


def test_ingestion_from_and_to_s3_equals_ingestion_here(
    s3: S3Server, root: str, scratch: str, tmp_path: Path
) -> None:
    data = small_dataset(tmp_path / "data", num_items=5)
    address = s3.copy(data, f"{tmp_path.name}/data")
    here, there = outputs(tmp_path / "here"), outputs(tmp_path / "there")
    expected = ingestion.run(str(data), *here, INGESTION)
    assert ingestion.run(address, *there, INGESTION, root) == expected
    for local, stored, role in zip(here, there, ROLES, strict=True):
        first, second = (open_artifact(folder, "ingestion", role) for folder in (local, stored))
        assert first.digest == second.digest
        assert list(local.glob("*.tar"))
        assert sorted(path.name for path in stored.iterdir()) == sorted(
            path.name for path in local.iterdir() if path.suffix != ".tar"
        )
        second.verify()
        photos, expected_photos = ItemTable(second), ItemTable(first)
        for position in range(5):
            assert photos.encoded(position) == expected_photos.encoded(position)
    copies = [path for path in (tmp_path / "scratch").glob("*") if path.suffix == ".tar"]
    assert len(copies) == (3 if scratch == "whole" else 0)


def test_features_read_back_from_s3_are_those_that_were_written(
    root: str, scratch: str, tmp_path: Path
) -> None:
    local, stored = write_features(tmp_path / "here"), write_features(tmp_path / "there", root)
    assert stored.digest == local.digest
    shards = objects(stored, ".safetensors")
    assert len(shards) > 3
    assert not list((tmp_path / "there").glob("*.safetensors"))
    features = FeatureSet(stored)
    found = features.many(range(NUM_ITEMS))
    for number, regions in enumerate(found):
        expected = regions_of(number)
        np.testing.assert_array_equal(regions.features, expected.features)
        np.testing.assert_array_equal(regions.boxes_xyxy, expected.boxes_xyxy)
        np.testing.assert_array_equal(regions.scores, expected.scores)
    copies = list((tmp_path / "scratch").glob("*.safetensors"))
    assert len(copies) == (len(shards) if scratch == "whole" else 0)


@pytest.mark.parametrize("where", ["file", "verify"])
def test_a_damaged_shard_is_named_with_both_digests(
    s3: S3Server, root: str, tmp_path: Path, where: str
) -> None:
    artifact = write_features(tmp_path / "features", root)
    key = objects(artifact, ".safetensors")[0]
    content = bytearray(s3.client().get_object(Bucket=BUCKET, Key=key)["Body"].read())
    content[-1] ^= 1
    found = hashlib.sha256(content).hexdigest()
    s3.client().put_object(Bucket=BUCKET, Key=key, Body=content, Metadata={"sha256": found})
    expected = Path(key).stem
    message = rf"s3://{BUCKET}/{key}: damaged: it is regions-00000\.safetensors, expected sha256 "
    with pytest.raises(ArtifactError, match=f"{message}{expected}, got {found}"):
        artifact.verify() if where == "verify" else FeatureSet(artifact).regions(0)


def test_a_damaged_row_that_is_read_alone_is_noticed(
    s3: S3Server, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRODUCT1M_SCRATCH_MIB", "0")
    artifact = write_features(tmp_path / "features", root)
    key = objects(artifact, ".safetensors")[0]
    content = bytearray(s3.client().get_object(Bucket=BUCKET, Key=key)["Body"].read())
    content[-1] ^= 1  # of the last vector in the shard
    s3.client().put_object(Bucket=BUCKET, Key=key, Body=content)
    features = FeatureSet(artifact)
    in_shard = int((features._regions["shard"] == "regions-00000.safetensors").sum())
    features.regions(0)
    with pytest.raises(ArtifactError, match=f"damaged: the regions of item item-{in_shard - 1}, "):
        features.regions(in_shard - 1)


def test_a_missing_shard_is_named(s3: S3Server, root: str, tmp_path: Path) -> None:
    artifact = write_features(tmp_path / "features", root)
    key = objects(artifact, ".safetensors")[1]
    s3.client().delete_object(Bucket=BUCKET, Key=key)
    message = rf"s3://{BUCKET}/{key}: .*regions-00001\.safetensors, run feature_extraction again"
    with pytest.raises(ArtifactError, match=message):
        artifact.verify()
    with pytest.raises(ArtifactError, match=message):
        FeatureSet(artifact).many(range(NUM_ITEMS))


def test_a_published_artifact_can_be_opened_on_another_machine(root: str, tmp_path: Path) -> None:
    artifact = write_features(tmp_path / "features", root)
    address = open_store(root).address(published_name(artifact.manifest))
    fetch_artifact(address, tmp_path / "elsewhere" / "features")
    fetched = open_artifact(tmp_path / "elsewhere" / "features", "feature_extraction", "train")
    assert fetched.manifest == artifact.manifest
    fetched.verify()
    assert FeatureSet(fetched).rows["id"].tolist() == [f"item-{n}" for n in range(NUM_ITEMS)]
    with pytest.raises(NotStoredError):
        fetch_artifact(address.replace(artifact.digest, "0" * 64), tmp_path / "none")


@pytest.mark.parametrize("when", ["while it writes", "before the manifest"])
def test_a_killed_writer_leaves_nothing_that_looks_whole(
    s3: S3Server, root: str, tmp_path: Path, when: str
) -> None:
    script = f"""
        import os
        from pathlib import Path
        from product1m.artifacts.folder import write_artifact
        from product1m.config import IngestionConfig
        from product1m.storage.s3 import S3Prefix
        if {when!r} == "before the manifest":
            S3Prefix.publish = lambda *_: os._exit(9)
        folder = Path({str(tmp_path / "train")!r})
        with write_artifact(folder, "ingestion", IngestionConfig(), storage_root={root!r}) as w:
            for name in ("one.tar", "two.tar", "three.tar"):
                (w.folder / name).write_text(name)
                w.store(w.folder / name)
            (w.folder / "items.parquet").write_text("a table")
            if {when!r} == "while it writes":
                w._uploads.finish()
                os._exit(9)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert killed.returncode == 9
    prefix = root.removeprefix(f"s3://{BUCKET}/")
    assert len(s3.keys(f"{prefix}/objects/")) == (3 if when == "while it writes" else 4)
    assert s3.keys(f"{prefix}/artifacts/") == []
    with pytest.raises(ArtifactError, match="expected a finished artifact of ingestion"):
        open_artifact(tmp_path / "train", "ingestion")


def test_of_two_writers_of_one_artifact_both_end_with_a_whole_one(
    s3: S3Server, root: str, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda name: write_features(tmp_path / name, root), ("one", "two"))
    assert first.digest == second.digest
    for artifact in (first, second):
        artifact.verify()
    prefix = root.removeprefix(f"s3://{BUCKET}/")
    (manifest,) = s3.keys(f"{prefix}/artifacts/")
    published = json.loads(s3.client().get_object(Bucket=BUCKET, Key=manifest)["Body"].read())
    seconds = [artifact.manifest.seconds for artifact in (first, second)]
    assert published["digest"] == first.digest
    assert published["seconds"] in seconds


def test_scratch_stays_within_its_bound(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with write_artifact(tmp_path / "a", "ingestion", INGESTION, storage_root=root) as writer:
        for number in range(4):
            path = writer.folder / f"images-{number}.tar"
            path.write_bytes(bytes([number]) * (700 << 10))
            writer.store(path)
    monkeypatch.setenv("PRODUCT1M_SCRATCH_MIB", "2")
    artifact = open_artifact(tmp_path / "a", "ingestion")
    assert not artifact.is_here
    for number in (0, 1, 2, 3, 0):
        assert artifact.file(f"images-{number}.tar").read_bytes()[0] == number
        copies = [path.stat().st_size for path in (tmp_path / "scratch").glob("*.tar")]
        assert sum(copies) <= 2 << 20
    shard = artifact.shard("images-2.tar")
    assert shard.path is None
    assert shard.read(10, 3) == bytes([2, 2, 2])


def test_a_storage_root_may_be_a_folder(tmp_path: Path) -> None:
    local = write_features(tmp_path / "here")
    stored = write_features(tmp_path / "there", str(tmp_path / "root"))
    assert stored.digest == local.digest
    stored.verify()
    np.testing.assert_array_equal(FeatureSet(stored).regions(7).features, regions_of(7).features)
    shard = next((tmp_path / "root" / "objects").rglob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    with pytest.raises(ArtifactError, match=re.escape(str(shard))):
        stored.verify()


def test_scenes_and_their_features_over_s3_equal_those_made_here(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every photo is read by its range; the regions come from an untrained network."""
    monkeypatch.setenv("PRODUCT1M_SCRATCH_MIB", "0")
    tiny_chain.write_dataset(tmp_path / "data")
    config = tiny_chain.CONFIG
    few = config.background_synthesis.model_copy(update={"num_scenes": 4, "held_out_share": 0.25})
    rpn = write_rpn(tmp_path / "rpn")
    for place, storage in (("here", ""), ("there", root)):
        folder = tmp_path / place
        ingestion.run(str(tmp_path / "data"), *outputs(folder), config.ingestion, storage)
        background_synthesis.run(folder / "train", "", folder / "scenes", few, storage)
        feature_extraction.run(
            folder / "scenes", rpn, folder / "features", config.feature_extraction, storage
        )
    for name, step in (("scenes", "background_synthesis"), ("features", "feature_extraction")):
        here, there = (open_artifact(tmp_path / place / name, step) for place in ("here", "there"))
        assert here.digest == there.digest
        there.verify()
        stored = {file for file, entry in there.manifest.files.items() if entry.stored}
        bulk = {"scenes-00000.tar", "scenes-00000.coco.json"}
        features = {"regions-00000.safetensors", "instances.safetensors"}
        assert stored == (bulk if name == "scenes" else features)
    frame, vectors = FeatureSet(there).instances()
    assert len(frame) == len(vectors) > 0


def write_rpn(folder: Path) -> Path:
    torch.manual_seed(0)
    with write_artifact(folder, "rpn_training", RPN) as writer:
        save_file(
            ProposalNetwork(NetworkSettings.from_config(RPN), RPN.weights).state_dict(),
            writer.folder / MODEL,
        )
    return folder


def test_weights_and_vocabulary_come_from_s3(s3: S3Server, tmp_path: Path) -> None:
    weights = timm.create_model("test_resnet").state_dict()
    models = tmp_path / "models"
    (models / "bert").mkdir(parents=True)
    save_file(weights, models / "weights.safetensors")
    (models / "bert" / "vocab.txt").write_text("\n".join([*SPECIAL, "rose", "cream"]), "utf-8")
    (models / "bert" / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    (models / "bert" / "config.json").write_text('{"model_type": "bert"}')
    address = s3.copy(models, f"{tmp_path.name}/models")
    backbone = Backbone("test_resnet", f"{address}/weights.safetensors", 0)
    name, loaded = next(iter(backbone.body.state_dict().items()))
    torch.testing.assert_close(loaded, weights[name])
    tokenizer = bert_tokenizer(f"{address}/bert")
    assert tokenizer.tokens(tokenizer.encode(["rose cream"], 8)[0])[1:3] == ["rose", "cream"]
    with pytest.raises(
        ConfigError, match=r"s3://.*/none\.safetensors': no such file; expected none"
    ):
        Backbone("test_resnet", f"{address}/none.safetensors", 0)
    with pytest.raises(NotStoredError, match=f"{address}/none: no files below this address"):
        bert_tokenizer(f"{address}/none")


def test_a_step_by_hand_goes_to_the_storage_root_too(root: str, tmp_path: Path) -> None:
    data = small_dataset(tmp_path / "data")
    arguments = [
        "ingestion",
        str(data),
        *map(str, outputs(tmp_path)),
        "--set",
        f"storage.root={root}",
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert open_artifact(tmp_path / "train", "ingestion").manifest.storage == root
    assert not list((tmp_path / "train").glob("*.tar"))
    shown = CliRunner().invoke(app, ["config", "show", "--set", f"storage.root={root}"]).output
    assert "storage.root" in shown
