"""One search, against the evaluation's rankings and against plain products of vectors."""

import numpy as np
import pytest

from product1m.artifacts.folder import Artifact, open_artifact
from product1m.data.regions import FeatureSet, Regions
from product1m.evaluation.methods import FIXED
from product1m.retrieval.embedding import normalize
from product1m.retrieval.query_boxes import choose_boxes
from product1m.retrieval.search import Searcher
from tests.support.worlds.evaluation_files import (
    SETTINGS,
    open_searcher,
    query_features,
    read_json,
    read_list,
)
from tests.support.worlds.tiny_world import TinyArtifacts


@pytest.fixture(scope="module")
def done(tiny_artifacts: TinyArtifacts) -> Artifact:
    return open_artifact(tiny_artifacts.evaluation, "evaluation")


@pytest.fixture(scope="module")
def searcher(tiny_artifacts: TinyArtifacts) -> Searcher:
    return open_searcher(tiny_artifacts)


@pytest.fixture(scope="module")
def queries(tiny_artifacts: TinyArtifacts) -> FeatureSet:
    return query_features(tiny_artifacts)


def test_a_single_search_gives_the_ranking_of_the_evaluation(
    done: Artifact, queries: FeatureSet, searcher: Searcher
) -> None:
    weights = read_json(done, "fusion.json")["shipped"]["weights"]
    listed = read_list(done, "dev") | read_list(done)
    captions: list[str] = queries.rows["caption"].tolist()
    for row, query in enumerate(queries.rows["id"].tolist()):
        found = searcher.search(captions[row], queries.regions(row), weights)
        assert found.merged == listed[query]
        assert len(found.rankings) == len(found.boxes)


def test_a_box_ranks_by_weighted_block_cosines(
    done: Artifact, queries: FeatureSet, searcher: Searcher
) -> None:
    weights = {"image": 1.0, "text": 0.4, "streams": 0.7}
    regions, title = queries.regions(0), queries.rows["caption"][0]
    found = searcher.search(title, regions, weights)
    view = choose_boxes(regions, SETTINGS.boxes).views(regions)[0]
    blocks = searcher.encoder.encode([title], [view])
    gallery = searcher.gallery.vectors(np.arange(len(searcher.gallery)))
    scores = sum(
        weight * gallery[:, searcher.layout.columns(block)] @ blocks[block][0]
        for block, weight in weights.items()
    )
    best = np.argsort(-scores)[:5]
    assert [item for item, _ in found.rankings[0][:5]] == [searcher.gallery.ids[i] for i in best]
    assert [s for _, s in found.rankings[0][:5]] == pytest.approx(scores[best].tolist(), abs=1e-5)


def test_the_first_authors_ranking_takes_products_of_joint_and_of_stream_tokens(
    done: Artifact, queries: FeatureSet, searcher: Searcher, tiny_artifacts: TinyArtifacts
) -> None:
    gallery = FeatureSet(open_artifact(tiny_artifacts.gallery_features, "feature_extraction"))
    every = [gallery.regions(row) for row in range(len(gallery))]

    def embedding(titles: list[str], views: list[Regions]) -> np.ndarray:
        tokens = searcher.encoder.capture.embed(titles, views)
        joint = normalize(tokens.joint_text * tokens.joint_image)
        streams = normalize(tokens.stream_text) * normalize(tokens.stream_image)
        return np.concatenate([joint, normalize(streams)], axis=1)

    items = embedding(gallery.rows["caption"].tolist(), every)
    regions, title = queries.regions(20), queries.rows["caption"][20]
    views = choose_boxes(regions, SETTINGS.boxes).views(regions)
    scores = (embedding([title] * len(views), views) @ items.T).max(axis=0)
    found = searcher.search(title, regions, FIXED["joint_streams"]).merged
    assert found[:8] == [gallery.rows["id"][item] for item in np.argsort(-scores)[:8]]
