"""Open what an evaluation of the tiny world reads and writes."""

import json
from typing import Any

from product1m.artifacts.folder import Artifact, open_artifact
from product1m.data.regions import FeatureSet
from product1m.retrieval.search import Searcher, SearchSettings
from tests.support.worlds.tiny_world import EVALUATION, TinyArtifacts

SETTINGS = SearchSettings.from_config(EVALUATION)


def open_searcher(world: TinyArtifacts) -> Searcher:
    index = open_artifact(world.index, "indexing")
    return Searcher.load(index, open_artifact(world.capture, "capture_pretraining"), SETTINGS)


def query_features(world: TinyArtifacts) -> FeatureSet:
    return FeatureSet(open_artifact(world.queries_features, "feature_extraction"))


def read_json(artifact: Artifact, name: str) -> Any:
    return json.loads(artifact.file(name).read_text("utf-8"))


def read_list(artifact: Artifact, split: str = "test") -> dict[str, list[str]]:
    """The shipped rankings of a split by query id."""
    lines = artifact.file(f"{split}/retrieval_id_list.txt").read_text("utf-8").splitlines()
    return {line.split(",")[0]: line.split(",")[1:] for line in lines}
