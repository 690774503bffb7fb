"""The block of what is printed on packs, against plain loops."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from product1m.artifacts.folder import open_artifact, write_artifact
from product1m.config import IndexingConfig
from product1m.retrieval.printed_text import PrintedTextEncoder

PACKS = [
    ["CHAZZ", "LIME & PEPPER", "vegetable chips"],
    ["CHAZZ", "SOUR CREAM", "vegetable chips"],
    ["Pringles", "Sour Cream & Onion"],
    ["蓓黛 柔纱", "PETALIQ"],
]
QUESTIONS = [["SOURCREAM", "chazz"], ["pring1es", "ONION"], ["柔 纱"], ["Ω"], []]


def grams(pack: Sequence[str]) -> Counter[str]:
    counted: Counter[str] = Counter()
    for line in pack:
        letters = [letter for letter in line.lower() if not letter.isspace()]
        for length in (1, 2, 3):
            for start in range(len(letters)):
                if start + length <= len(letters):
                    counted["".join(letters[start : start + length])] += 1
    return counted


def similarity(question: Sequence[str], pack: Sequence[str]) -> float:
    """The cosine of both TF-IDF vectors, where unknown n-grams lengthen the question's."""
    known = [grams(other) for other in PACKS]

    def idf(gram: str) -> float:
        return math.log((1 + len(PACKS)) / (1 + sum(gram in other for other in known))) + 1

    rarest = max(idf(gram) for other in known for gram in other)

    def weights(counted: Counter[str]) -> dict[str, float]:
        return {
            gram: (1 + math.log(count)) * (idf(gram) if any(gram in k for k in known) else rarest)
            for gram, count in counted.items()
        }

    asked, given = weights(grams(question)), weights(grams(pack))
    common = sum(asked[gram] * given[gram] for gram in asked.keys() & given.keys())
    lengths = [math.sqrt(sum(value**2 for value in row.values())) for row in (asked, given)]
    return common / (lengths[0] * lengths[1]) if all(lengths) else 0.0


@pytest.fixture(scope="module")
def encoder() -> PrintedTextEncoder:
    return PrintedTextEncoder.fit(PACKS, dim=16, max_ngram=3, max_terms=10_000, seed=0)


def test_inner_products_are_those_of_plain_loops(encoder: PrintedTextEncoder) -> None:
    cosines = encoder.encode(QUESTIONS) @ encoder.encode_items(PACKS).T
    expected = [[similarity(question, pack) for pack in PACKS] for question in QUESTIONS]
    np.testing.assert_allclose(cosines, expected, atol=1e-5)
    assert cosines[:3].argmax(axis=1).tolist() == [1, 2, 3]
    assert not cosines[3:].any()


def test_items_have_unit_length(encoder: PrintedTextEncoder) -> None:
    np.testing.assert_allclose(np.linalg.norm(encoder.encode_items(PACKS), axis=1), 1, atol=1e-5)


def test_neither_blanks_case_nor_the_order_of_lines_count(encoder: PrintedTextEncoder) -> None:
    first, second = encoder.encode([["Sour cream", "CHAZZ"], ["chazz", "SOUR  CREAM"]])
    np.testing.assert_array_equal(first, second)


def test_only_the_most_frequent_terms_are_kept() -> None:
    few = PrintedTextEncoder.fit(PACKS, dim=16, max_ngram=3, max_terms=5, seed=0)
    frequency = Counter(gram for pack in PACKS for gram in grams(pack))
    assert len(few.terms.vocabulary) == 5
    rarest_kept = min(frequency[term] for term in few.terms.vocabulary)
    assert all(
        count <= rarest_kept for t, count in frequency.items() if t not in few.terms.vocabulary
    )


def test_a_gallery_on_which_nothing_is_printed_gives_zeros() -> None:
    empty = PrintedTextEncoder.fit([[], []], dim=8, max_ngram=3, max_terms=9, seed=0)
    assert not empty.encode([["CHAZZ"], []]).any()


def test_what_was_written_encodes_alike(encoder: PrintedTextEncoder, tmp_path: Path) -> None:
    with write_artifact(tmp_path / "index", "indexing", IndexingConfig()) as writer:
        encoder.save(writer.folder)
    loaded = PrintedTextEncoder.load(open_artifact(tmp_path / "index", "indexing"))
    assert loaded is not None
    np.testing.assert_array_equal(loaded.encode(QUESTIONS), encoder.encode(QUESTIONS))


def test_an_index_without_the_block_has_no_encoder(tmp_path: Path) -> None:
    with write_artifact(tmp_path / "index", "indexing", IndexingConfig()):
        pass
    assert PrintedTextEncoder.load(open_artifact(tmp_path / "index", "indexing")) is None
