"""Cut-outs encoded as photos of their own."""

import json

import numpy as np
import pytest
import torch

from product1m.artifacts.folder import open_artifact
from product1m.config import FeatureExtractionConfig
from product1m.data.items import ItemTable
from product1m.data.regions import FeatureSet
from product1m.detection.crops import encode_crops
from product1m.detection.extraction import RegionSettings, extract_regions
from product1m.detection.proposals import NetworkSettings, ProposalNetwork, load_rpn
from product1m.evaluation.variants import embed_queries, true_boxes, with_crops
from product1m.retrieval.search import Searcher, SearchSettings
from tests.support.worlds.tiny_chain import CONFIG as CONFIG_OF_CHAIN
from tests.support.worlds.tiny_scenes import RPN, blocks
from tests.support.worlds.tiny_world import TinyArtifacts

SETTINGS = RegionSettings.from_config(
    FeatureExtractionConfig(precision="float32", canonical_side_px=48), None
)


@pytest.fixture(scope="module")
def network() -> ProposalNetwork:
    torch.manual_seed(0)
    return ProposalNetwork(NetworkSettings.from_config(RPN), RPN.weights).eval()


def test_a_crop_has_the_vector_it_would_have_as_a_photo(network: ProposalNetwork) -> None:
    photo = blocks(np.random.default_rng(0), 200, 160)
    given = np.array([[0, 0, 200, 160], [20.4, 30.2, 90.7, 101.5], [150, 10, 230, 170]], np.float32)
    cut = [photo, photo[30:102, 20:91], photo[10:160, 150:200]]
    found = encode_crops(network, photo, given, SETTINGS)
    assert found.dtype == np.float16
    for vector, crop in zip(found, cut, strict=True):
        ((regions, _),) = extract_regions(network, [np.ascontiguousarray(crop)], SETTINGS)
        expected = np.float32(regions.features[0])
        np.testing.assert_allclose(np.float32(vector), expected, rtol=2e-3, atol=2e-3)


def test_a_box_thinner_than_a_pixel_is_widened_to_one(network: ProposalNetwork) -> None:
    photo = blocks(np.random.default_rng(0), 64, 64)
    thin = np.array([[63.2, 63.1, 63.3, 63.4], [64, 64, 70, 70]], np.float32)
    assert np.isfinite(encode_crops(network, photo, thin, SETTINGS)).all()


def test_an_evaluation_that_is_given_the_rpn_ranks_by_crops_too(made: TinyArtifacts) -> None:
    done = open_artifact(made.evaluation, "evaluation")
    scores = json.loads(done.file("metrics.json").read_text("utf-8"))
    assert "instance_crops" in scores["test"]
    assert "instance_crops" in scores["differences"]
    assert "instance_crops" not in scores["dev"], "nothing is chosen by them"
    assert done.manifest.inputs["rpn"] == open_artifact(made.rpn, "rpn_training").digest
    report = done.file("report.html").read_text("utf-8")
    assert "Left out: instance_crops" not in report
    assert "Left out: slices by classes" not in report  # ingestion counted the titles


def test_a_vector_of_the_crop_takes_the_place_of_the_regions_own(made: TinyArtifacts) -> None:
    index, capture = (
        open_artifact(folder, step)
        for folder, step in ((made.index, "indexing"), (made.capture, "capture_pretraining"))
    )
    searcher = Searcher.load(index, capture, SearchSettings.from_config(CONFIG_OF_CHAIN.evaluation))
    queries = FeatureSet(open_artifact(made.queries_features, "feature_extraction"))
    photos = ItemTable(open_artifact(made.queries, "ingestion"))
    rpn = open_artifact(made.rpn, "rpn_training")
    every = embed_queries(searcher, queries, true_boxes(queries))
    assert (every.oracle_boxes, every.instance_crops) == (None, None)
    rows, place = [1, 3], 1
    views = with_crops(every.select(rows), searcher, queries, rows, photos, rpn)
    assert views.instance_crops is not None
    assert views.instance_crops.query_ids == queries.rows["id"].iloc[rows].tolist()
    row = rows[place]
    settings = RegionSettings.from_config(CONFIG_OF_CHAIN.feature_extraction, None)
    regions, first = queries.regions(row), views.detected.starts[place]
    box = views.detected.boxes[place].boxes_xyxy[0]
    (vector,) = encode_crops(load_rpn(rpn), photos.photo(row), box[None], settings)
    instance = regions.instance(box, vector)
    (expected,) = searcher.encoder.vectors([queries.rows["caption"][row]], [instance])
    np.testing.assert_allclose(views.instance_crops.box_vectors[first], expected, atol=1e-4)
    assert not np.allclose(views.detected.box_vectors[first], expected, atol=1e-3)
    np.testing.assert_array_equal(views.instance_crops.photo_vectors, views.detected.photo_vectors)
