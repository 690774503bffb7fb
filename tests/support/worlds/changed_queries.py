"""The tiny world with one artifact changed."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file

from product1m.artifacts.folder import open_artifact, write_artifact
from product1m.config import FeatureExtractionConfig
from product1m.data.regions import write_instances
from tests.support.worlds.tiny_world import TinyArtifacts


def linked(world: TinyArtifacts, folder: Path, without: str) -> TinyArtifacts:
    """The same artifacts at another place, but for one."""
    (folder / "world").mkdir()
    for artifact in world.root.iterdir():
        if artifact.name != without and not artifact.name.startswith("."):
            (folder / "world" / artifact.name).symlink_to(artifact)
    return TinyArtifacts(folder / "world")


def with_queries(
    world: TinyArtifacts,
    folder: Path,
    rows: Callable[[pd.DataFrame], None] | None = None,
    features: Callable[[dict[str, np.ndarray], list[int]], None] | None = None,
    instances: tuple[pd.DataFrame, np.ndarray] | None = None,
) -> TinyArtifacts:
    """The same artifacts with changed query rows or region numbers, or with true boxes."""
    changed = linked(world, folder, without="queries_features")
    source = open_artifact(world.queries_features, "feature_extraction")
    inputs = {
        "images": open_artifact(world.queries, "ingestion"),
        "rpn": open_artifact(world.rpn, "rpn_training"),
    }
    with write_artifact(
        changed.queries_features, "feature_extraction", FeatureExtractionConfig(), inputs, "queries"
    ) as writer:
        for name in source.manifest.files:
            shutil.copyfile(source.file(name), writer.folder / name)
        writer.details.update(source.manifest.details)
        if instances:
            write_instances(writer.folder, *instances)
        if rows:
            table = pd.read_parquet(writer.folder / "items.parquet")
            table["labels"] = table["labels"].map(list)
            rows(table)
            table.to_parquet(writer.folder / "items.parquet")
        if features:
            numbers = load_file(writer.folder / "regions-00000.safetensors")
            starts = pd.read_parquet(writer.folder / "regions.parquet")["start"].tolist()
            features(numbers, starts)
            save_file(numbers, writer.folder / "regions-00000.safetensors")
    return changed
