import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from product1m.artifacts.folder import open_artifact, write_artifact
from product1m.config import IndexingConfig
from product1m.errors import RetrievalError
from product1m.retrieval.text import TextEncoder

CAPTIONS = ["rose cream 50ml", "rose serum", "玫瑰面霜", "aloe gel", "aloe cream", "玫瑰精华"]


def fit(captions: list[str] = CAPTIONS, dim: int = 100, max_terms: int = 1000) -> TextEncoder:
    return TextEncoder.fit(captions, dim, 3, max_terms, seed=0)


def tfidf(captions: list[str], fitted_on: list[str]) -> list[dict[str, float]]:
    """Smoothed TF-IDF over character 1- to 3-grams, unit length, in plain loops."""

    def grams(text: str) -> Counter[str]:
        return Counter(text[i : i + n] for n in (1, 2, 3) for i in range(len(text) - n + 1))

    holding = Counter(gram for caption in fitted_on for gram in set(grams(caption)))
    vectors = []
    for caption in captions:
        vector = {
            gram: count * (math.log((1 + len(fitted_on)) / (1 + holding[gram])) + 1)
            for gram, count in grams(caption).items()
            if gram in holding
        }
        norm = math.sqrt(sum(value**2 for value in vector.values()))
        vectors.append({gram: value / norm for gram, value in vector.items()})
    return vectors


def test_unreduced_cosines_equal_tfidf_by_plain_loops() -> None:
    vectors = fit().encode(CAPTIONS)
    expected = [
        [sum(a[gram] * b.get(gram, 0.0) for gram in a) for b in tfidf(CAPTIONS, CAPTIONS)]
        for a in tfidf(CAPTIONS, CAPTIONS)
    ]
    np.testing.assert_allclose(vectors @ vectors.T, expected, atol=1e-5)


def test_a_new_title_ranks_the_gallery_as_tfidf_does() -> None:
    title = "cream with aloe"
    (query,) = tfidf([title], CAPTIONS)
    expected = np.array(
        [
            sum(query.get(gram, 0.0) * value for gram, value in vector.items())
            for vector in tfidf(CAPTIONS, CAPTIONS)
        ]
    )
    encoder = fit()
    found = (encoder.encode([title]) @ encoder.encode(CAPTIONS).T)[0]
    # What a title shares with no caption is lost in the reduction, the same for every item.
    np.testing.assert_allclose(
        found / np.linalg.norm(found), expected / np.linalg.norm(expected), atol=1e-5
    )


def test_vectors_have_unit_length_and_a_title_of_strange_characters_is_zero() -> None:
    vectors = fit(dim=3).encode([*CAPTIONS, "ZZZ★"])
    np.testing.assert_allclose(np.linalg.norm(vectors[:-1], axis=1), 1, atol=1e-5)
    assert not vectors[-1].any()


def test_the_block_is_no_wider_than_asked_nor_than_there_are_captions() -> None:
    assert fit(dim=3).dim == fit(dim=3).encode(["rose"]).shape[1] == 3
    assert fit(dim=100).dim == len(CAPTIONS)


def test_only_the_most_frequent_ngrams_are_counted() -> None:
    counted = fit(max_terms=5).terms.vocabulary
    counts = Counter(
        caption[i : i + n]
        for caption in CAPTIONS
        for n in (1, 2, 3)
        for i in range(len(caption) - n + 1)
    )
    assert len(counted) == 5
    assert min(counts[gram] for gram in counted) >= sorted(counts.values())[-5]


def test_fitting_again_gives_the_same_bits_and_every_direction_points_to_its_largest_entry() -> (
    None
):
    first, second = fit(dim=4), fit(dim=4)
    assert first.terms.components.tobytes() == second.terms.components.tobytes()
    largest = np.abs(first.terms.components).argmax(axis=0)
    assert (first.terms.components[largest, np.arange(4)] > 0).all()


def test_a_title_does_not_depend_on_the_titles_beside_it() -> None:
    encoder = fit(dim=4)
    together = encoder.encode(["rose", "aloe gel", "rose"])
    np.testing.assert_array_equal(together[0], together[2])
    np.testing.assert_allclose(together[1:2], encoder.encode(["aloe gel"]), atol=1e-7)


def test_a_saved_block_reads_back_the_same_without_pickle(tmp_path: Path) -> None:
    encoder = fit(dim=4)
    with write_artifact(tmp_path / "index", "indexing", IndexingConfig()) as writer:
        encoder.save(writer.folder)
    artifact = open_artifact(tmp_path / "index", "indexing")
    assert {Path(name).suffix for name in artifact.manifest.files} == {".json", ".safetensors"}
    assert "玫瑰" in json.loads(artifact.file("text_vocabulary.json").read_text("utf-8"))["terms"]
    loaded = TextEncoder.load(artifact)
    np.testing.assert_array_equal(loaded.encode(CAPTIONS), encoder.encode(CAPTIONS))


def test_a_gallery_without_a_caption_is_refused() -> None:
    with pytest.raises(RetrievalError, match="needs captions: none of the gallery's 2"):
        fit(["", ""])
