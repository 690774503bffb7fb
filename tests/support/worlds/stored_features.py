"""A feature artifact of known vectors in several shards, in its folder or in storage."""

from pathlib import Path

import numpy as np

from product1m.artifacts.folder import Artifact, open_artifact, write_artifact
from product1m.config import FeatureExtractionConfig
from product1m.data.items import ItemWriter
from product1m.data.regions import Regions, RegionWriter

NUM_ITEMS = 30


def regions_of(number: int) -> Regions:
    generator = np.random.default_rng(number)
    count = 2 + number % 4
    return Regions(
        generator.standard_normal((count, 64)).astype(np.float16),
        generator.uniform(0, 200, (count, 4)).astype(np.float32),
        generator.uniform(0, 1, count).astype(np.float32),
    )


def write_features(folder: Path, root: str = "") -> Artifact:
    """Thirty items in several shards."""
    config = FeatureExtractionConfig()
    with write_artifact(folder, "feature_extraction", config, {}, "train", root) as writer:
        writer.details["feature_dim"] = 64
        with (
            ItemWriter(writer.folder) as items,
            RegionWriter(writer.folder, store=writer.store) as regions,
        ):
            regions._shard_limit = 4000
            for number in range(NUM_ITEMS):
                items.add(f"item-{number}", b"", (9, 9), caption=f"title {number}")
                regions.add(regions_of(number))
    return open_artifact(folder, "feature_extraction", "train")
