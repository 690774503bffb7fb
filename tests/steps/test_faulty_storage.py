"""The small pipeline over an S3 server behind which two in five requests go wrong.

A long campaign; `make faults` runs it and prints the figures.
"""

import json
import sys
from pathlib import Path

import pytest

from product1m.artifacts.manifest import MANIFEST
from product1m.steps import (
    background_synthesis,
    capture_pretraining,
    feature_extraction,
    indexing,
    ingestion,
    rpn_training,
)
from product1m.storage import s3_client
from product1m.storage.opening import open_store
from tests.support.servers.fault_proxy import EVERY_FAULT, running_proxy
from tests.support.servers.s3_server import BUCKET, S3Server
from tests.support.worlds import tiny_chain
from tests.support.worlds.tiny_world import TinyArtifacts

CONFIG = tiny_chain.CONFIG
ARTIFACTS = (
    "train", "gallery", "queries", "scenes", "rpn", "train_features", "scenes_features",
    "gallery_features", "queries_features", "capture", "index", "evaluation",
)  # fmt: skip


def digests(made: TinyArtifacts) -> dict[str, str]:
    return {
        name: json.loads((made.root / name / MANIFEST).read_text("utf-8"))["digest"]
        for name in ARTIFACTS
    }


def run_over_storage(made: TinyArtifacts, dataset: str, root: str) -> None:
    """The chain with its data set and its bulk files on S3."""
    ingestion.run(dataset, made.train, made.gallery, made.queries, CONFIG.ingestion, root)
    background_synthesis.run(made.train, "", made.scenes, CONFIG.background_synthesis, root)
    rpn_training.run(made.scenes, made.rpn, CONFIG.rpn_training)
    for part in ("train", "scenes", "gallery", "queries"):
        features = made.root / f"{part}_features"
        section = CONFIG.feature_extraction
        feature_extraction.run(made.root / part, made.rpn, features, section, root)
    capture_pretraining.run(
        made.train_features, made.scenes_features, made.capture, CONFIG.capture_pretraining
    )
    indexing.run(made.gallery_features, made.capture, made.index, CONFIG.indexing)
    tiny_chain.evaluate(made, made.evaluation)


@pytest.mark.slow
@pytest.mark.parametrize("scratch_mib", ["8192", "0"])
def test_the_pipeline_ends_with_the_digests_of_a_local_run(
    made: TinyArtifacts,
    s3: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scratch_mib: str,
) -> None:
    """With shards read whole, and part by part."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("PRODUCT1M_SCRATCH_MIB", scratch_mib)
    monkeypatch.setattr(s3_client, "READ_TIMEOUT_S", 2.0)
    monkeypatch.setattr(s3_client, "MAX_BACKOFF_S", 0.01)
    monkeypatch.setattr(
        "botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01
    )
    dataset = s3.copy(made.root / "dataset", f"{tmp_path.name}/dataset")
    with running_proxy(s3.port) as proxy:
        for name, value in s3.environment(proxy.port).items():
            monkeypatch.setenv(name, value)
        open_store(dataset).publish("answered", b"once")
        faults = tuple(fault for fault in EVERY_FAULT if fault != "stall")
        proxy.inject_always(0.4, faults, seed=1)
        there = TinyArtifacts(tmp_path / "there")
        run_over_storage(there, dataset, f"s3://{BUCKET}/{tmp_path.name}/root")
        requests = len(proxy.requests)
    expected, found = digests(made), digests(there)
    differing = [name for name in ARTIFACTS if expected[name] != found[name]]
    sys.stdout.write(f"{json.dumps({'requests': requests, 'differing': differing})}\n")
    assert differing == []
