"""One search, against the evaluation's rankings and against plain products of vectors."""

import numpy as np
import pytest

from product1m.artifacts.folder import Artifact, open_artifact
from product1m.data.regions import FeatureSet, Regions
from product1m.data.vectors import normalize
from product1m.evaluation.methods import FIXED
from product1m.retrieval.query_boxes import choose_boxes
from product1m.retrieval.search import Searcher
from tests.support.worlds.evaluation_files import (
    SETTINGS,
    read_json,
    read_list,
)
from tests.support.worlds.tiny_world import TinyArtifacts


def test_a_single_search_gives_the_ranking_of_the_evaluation(
    tiny_evaluation: Artifact, tiny_queries: FeatureSet, tiny_searcher: Searcher
) -> None:
    weights = read_json(tiny_evaluation, "fusion.json")["shipped"]["weights"]
    listed = read_list(tiny_evaluation, "dev") | read_list(tiny_evaluation)
    captions: list[str] = tiny_queries.rows["caption"].tolist()
    for row, query in enumerate(tiny_queries.rows["id"].tolist()):
        found = tiny_searcher.search(captions[row], tiny_queries.regions(row), weights)
        assert found.merged == listed[query]
        assert len(found.rankings) == len(found.boxes)


def test_a_box_ranks_by_weighted_block_cosines(
    tiny_evaluation: Artifact, tiny_queries: FeatureSet, tiny_searcher: Searcher
) -> None:
    weights = {"image": 1.0, "text": 0.4, "streams": 0.7}
    regions, title = tiny_queries.regions(0), tiny_queries.rows["caption"][0]
    found = tiny_searcher.search(title, regions, weights)
    view = choose_boxes(regions, SETTINGS.boxes).views(regions)[0]
    blocks = tiny_searcher.encoder.encode([title], [view])
    gallery = tiny_searcher.gallery.vectors(np.arange(len(tiny_searcher.gallery)))
    scores = sum(
        weight * gallery[:, tiny_searcher.layout.columns(block)] @ blocks[block][0]
        for block, weight in weights.items()
    )
    best = np.argsort(-scores)[:5]
    assert [item for item, _ in found.rankings[0][:5]] == [
        tiny_searcher.gallery.ids[i] for i in best
    ]
    assert [s for _, s in found.rankings[0][:5]] == pytest.approx(scores[best].tolist(), abs=1e-5)


def test_the_first_authors_ranking_takes_products_of_joint_and_of_stream_tokens(
    tiny_evaluation: Artifact,
    tiny_queries: FeatureSet,
    tiny_searcher: Searcher,
    tiny_artifacts: TinyArtifacts,
) -> None:
    gallery = FeatureSet(open_artifact(tiny_artifacts.gallery_features, "feature_extraction"))
    every = [gallery.regions(row) for row in range(len(gallery))]

    def embedding(titles: list[str], views: list[Regions]) -> np.ndarray:
        tokens = tiny_searcher.encoder.capture.embed(titles, views)
        joint = normalize(tokens.joint_text * tokens.joint_image)
        streams = normalize(tokens.stream_text) * normalize(tokens.stream_image)
        return np.concatenate([joint, normalize(streams)], axis=1)

    items = embedding(gallery.rows["caption"].tolist(), every)
    regions, title = tiny_queries.regions(20), tiny_queries.rows["caption"][20]
    views = choose_boxes(regions, SETTINGS.boxes).views(regions)
    scores = (embedding([title] * len(views), views) @ items.T).max(axis=0)
    found = tiny_searcher.search(title, regions, FIXED["joint_streams"]).merged
    assert found[:8] == [gallery.rows["id"][item] for item in np.argsort(-scores)[:8]]
