from pathlib import Path

import numpy as np
import pytest

from product1m.artifacts.folder import open_artifact
from product1m.data.regions import FeatureSet, Regions
from product1m.data.vectors import normalize
from product1m.errors import RetrievalError
from product1m.retrieval.crop_block import CROP
from product1m.retrieval.embedding import (
    BLOCKS,
    OCR,
    BlockEncoder,
    BlockLayout,
    ImageStandardization,
    concatenate,
    stream_block,
)
from product1m.retrieval.search import Searcher, SearchSettings
from tests.support.worlds.tiny_world import FEATURE_DIM, TinyArtifacts

LAYOUT = BlockLayout({"joint": 2, "streams": 3, "image": 1, "text": 2, "stream_product": 1})


@pytest.fixture(scope="module")
def encoder(tiny_artifacts: TinyArtifacts) -> BlockEncoder:
    from tests.support.worlds.tiny_world import EVALUATION

    index = open_artifact(tiny_artifacts.index, "indexing")
    capture = open_artifact(tiny_artifacts.capture, "capture_pretraining")
    return Searcher.load(index, capture, SearchSettings.from_config(EVALUATION)).encoder


@pytest.fixture(scope="module")
def gallery(tiny_artifacts: TinyArtifacts) -> FeatureSet:
    return FeatureSet(open_artifact(tiny_artifacts.gallery_features, "feature_extraction"))


def test_a_block_lies_where_the_layout_says() -> None:
    rows = np.arange(18.0).reshape(2, 9)
    assert LAYOUT.dim == 9
    assert [rows[0, LAYOUT.columns(block)].tolist() for block in LAYOUT.widths] == [
        [0, 1],
        [2, 3, 4],
        [5],
        [6, 7],
        [8],
    ]


def test_weights_scale_their_blocks_and_what_is_not_named_is_off() -> None:
    scale = LAYOUT.scale({"streams": 0.5, "text": 2.0})
    assert scale.tolist() == [0, 0, 0.5, 0.5, 0.5, 0, 2, 2, 0]


def test_weights_for_a_block_that_the_index_lacks_are_refused() -> None:
    with pytest.raises(RetrievalError, match="weights for sound; the index has the blocks joint"):
        LAYOUT.scale({"sound": 1.0})


def test_normalizing_leaves_a_row_of_zeros_alone() -> None:
    assert normalize(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist() == [
        pytest.approx([0.6, 0.8]),
        [0, 0],
    ]


def test_streams_as_concatenation_average_the_two_cosines() -> None:
    generator = np.random.default_rng(0)
    text, image = generator.standard_normal((2, 4, 6)) * np.array([9.0, 0.1])[:, None, None]
    found = stream_block(text, image, "concatenation")
    expected = [
        [(cosine(text, a, b) + cosine(image, a, b)) / 2 for b in range(4)] for a in range(4)
    ]
    np.testing.assert_allclose(found @ found.T, expected, atol=1e-6)


def test_streams_as_sum_average_cosines_within_and_across_the_two() -> None:
    generator = np.random.default_rng(0)
    tokens = generator.standard_normal((2, 4, 6)) * np.array([9.0, 0.1])[:, None, None]
    units = tokens / np.linalg.norm(tokens, axis=2, keepdims=True)
    found = stream_block(tokens[0], tokens[1], "sum")
    for a, b in ((0, 0), (0, 1), (2, 3)):
        four = sum(float(of_a @ of_b) for of_a in units[:, a] for of_b in units[:, b])
        lengths = [np.sqrt(2 + 2 * float(units[0, n] @ units[1, n])) for n in (a, b)]
        assert float(found[a] @ found[b]) == pytest.approx(four / lengths[0] / lengths[1])


def test_standardization_takes_off_the_gallery_mean_and_spread() -> None:
    features = np.array([[1, 5, 0], [3, 5, 0], [5, 5, 6]], np.float16)
    fitted = ImageStandardization.fit(features)
    assert fitted.mean.tolist() == [3, 5, 2]
    np.testing.assert_allclose(fitted.deviation, [np.sqrt(8 / 3), 1, np.sqrt(8)], rtol=1e-6)


def test_every_block_equals_its_definition(encoder: BlockEncoder, gallery: FeatureSet) -> None:
    captions = gallery.rows["caption"].tolist()
    views = [gallery.regions(row) for row in range(len(gallery))]
    blocks = encoder.encode(captions, views)
    tokens = encoder.capture.embed(captions, views)
    first = np.array([view.features[0].astype(np.float64) for view in views])
    standardized = (first - first.mean(axis=0)) / first.std(axis=0)
    for row in range(len(captions)):
        joint = tokens.joint_text[row] * tokens.joint_image[row]
        np.testing.assert_allclose(blocks["joint"][row], joint / np.linalg.norm(joint), atol=1e-5)
        product = tokens.stream_text[row] * tokens.stream_image[row]
        product /= np.linalg.norm(product)
        np.testing.assert_allclose(blocks["stream_product"][row], product, atol=1e-5)
        image = standardized[row] / np.linalg.norm(standardized[row])
        np.testing.assert_allclose(blocks["image"][row], image, atol=1e-4)
    assert list(blocks) == [block for block in BLOCKS if block not in (OCR, CROP)]
    assert all(np.allclose(np.linalg.norm(b, axis=1), 1, atol=1e-5) for b in blocks.values())


def test_a_weighted_query_scores_the_weighted_sum_of_the_blocks_cosines(
    encoder: BlockEncoder, gallery: FeatureSet
) -> None:
    weights = {"joint": 0.3, "streams": 1.0, "text": 0.6}
    captions = gallery.rows["caption"].tolist()[:6]
    blocks = encoder.encode(captions, [gallery.regions(row) for row in range(6)])
    layout = BlockLayout({name: block.shape[1] for name, block in blocks.items()})
    vectors = concatenate(blocks)
    found = vectors * layout.scale(weights) @ vectors.T
    expected = sum(weight * blocks[name] @ blocks[name].T for name, weight in weights.items())
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_view_has_the_same_vector_whatever_is_encoded_beside_it(
    encoder: BlockEncoder, gallery: FeatureSet
) -> None:
    captions = gallery.rows["caption"].tolist()
    views = [gallery.regions(row) for row in range(len(gallery))]
    together = encoder.vectors(captions, views)
    alone = np.concatenate(
        [encoder.vectors([caption], [view]) for caption, view in zip(captions, views, strict=True)]
    )
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_the_image_block_looks_at_the_first_region_only(encoder: BlockEncoder) -> None:
    generator = np.random.default_rng(0)
    boxes = np.array([[0, 0, 9, 9], [1, 1, 5, 5]], np.float32)
    scores = np.array([1.0, 0.5], np.float32)
    features = generator.standard_normal((2, FEATURE_DIM)).astype(np.float32)
    other = np.stack([features[0], -features[1]])
    blocks = encoder.encode(
        ["rose"] * 2, [Regions(features, boxes, scores), Regions(other, boxes, scores)]
    )
    np.testing.assert_array_equal(*blocks["image"])
    assert np.abs(np.subtract(*blocks["joint"])).max() > 1e-4


def test_a_saved_standardization_reads_back(tiny_artifacts: TinyArtifacts) -> None:
    index = open_artifact(tiny_artifacts.index, "indexing")
    loaded = ImageStandardization.load(index)
    assert loaded.mean.shape == loaded.deviation.shape == (FEATURE_DIM,)
    assert Path(index.file("image_block.safetensors")).is_file()


def cosine(rows: np.ndarray, a: int, b: int) -> float:
    return float(rows[a] @ rows[b] / np.linalg.norm(rows[a]) / np.linalg.norm(rows[b]))
