"""The block `ocr`: character n-grams of what is printed on a pack.

Blanks are left out, because a reader loses them between small words; letters are compared without
case and in one form of Unicode. N-grams do not cross lines, and the order of lines does not matter.
A gallery item is known by its lines and its title. Fitted on the gallery; kept like the text block,
as a JSON vocabulary beside safetensors.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32

from product1m.artifacts.folder import Artifact
from product1m.retrieval.text import ReducedTerms, main_directions

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

VOCABULARY = "ocr_vocabulary.json"
WEIGHTS = "ocr_block.safetensors"

Texts = Sequence[str]
"""Lines of one pack, and for a gallery item also its title."""


class PrintedTextEncoder:
    """Lines to reduced TF-IDF vectors, at most of unit length; zeros if no n-gram is known.

    A vector's length is the share of what was read that the gallery knows, so that a stray letter
    counts little and a whole name much (ours).
    """

    def __init__(self, terms: ReducedTerms) -> None:
        self.terms = terms
        self._column = {term: column for column, term in enumerate(terms.vocabulary)}

    @classmethod
    def fit(
        cls, packs: Sequence[Texts], dim: int, max_ngram: int, max_terms: int, seed: int
    ) -> "PrintedTextEncoder":
        """Fit on the gallery; less than `dim` wide if there are fewer items, 1 without any text."""
        counts = [Counter(ngrams(pack, max_ngram)) for pack in packs]
        frequency = Counter(term for pack in counts for term in pack)
        # The most frequent n-grams, of equals the first by name.
        vocabulary = sorted(
            sorted(frequency, key=lambda term: (-frequency[term], term))[:max_terms]
        )
        seen_in = np.array([frequency[term] for term in vocabulary], np.float64)
        idf = (np.log((1 + len(packs)) / (1 + seen_in)) + 1).astype(np.float32)
        if not vocabulary:
            return cls(ReducedTerms([], idf, np.zeros((0, 1), np.float32), max_ngram))
        unreduced = ReducedTerms(vocabulary, idf, np.zeros((len(idf), 0), np.float32), max_ngram)
        matrix, _ = cls(unreduced)._weighted(packs)
        return cls(replace(unreduced, components=main_directions(matrix, dim, seed)))

    def encode(self, packs: Sequence[Texts]) -> Float32[np.ndarray, "n K"]:
        """The packs' vectors, row for row."""
        matrix, norms = self._weighted(packs)
        reduced = np.asarray(matrix @ self.terms.components, np.float32)
        return np.asarray(reduced / np.maximum(norms, 1e-12)[:, None], np.float32)

    def encode_items(self, packs: Sequence[Texts]) -> Float32[np.ndarray, "n K"]:
        """Vectors of gallery items: of unit length, whatever the reduction lost."""
        vectors = self.encode(packs)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)

    def _weighted(self, packs: Sequence[Texts]) -> tuple["csr_matrix", Float32[np.ndarray, " n"]]:
        """TF-IDF of the known n-grams, and each row's length with the unknown ones.

        A count n weighs 1 + ln n. An unknown n-gram weighs as much as one seen in a single item.
        """
        from scipy.sparse import csr_matrix

        idf = self.terms.idf
        unknown = float(idf.max(initial=1))
        rows, columns, values = [], [], []
        squares = np.zeros(len(packs))
        for row, pack in enumerate(packs):
            for term, count in Counter(ngrams(pack, self.terms.max_ngram)).items():
                column = self._column.get(term)
                weight = (1 + np.log(count)) * (
                    unknown if column is None else self.terms.idf[column]
                )
                squares[row] += weight**2
                if column is not None:
                    rows.append(row)
                    columns.append(column)
                    values.append(weight)
        shape = (len(packs), len(self.terms.vocabulary))
        matrix = csr_matrix((np.array(values, np.float32), (rows, columns)), shape)
        return matrix, np.sqrt(squares).astype(np.float32)

    def save(self, folder: Path) -> None:
        """Write vocabulary and numbers."""
        self.terms.save(folder, VOCABULARY, WEIGHTS)

    @classmethod
    def load(cls, artifact: Artifact) -> "PrintedTextEncoder | None":
        """Read what `save` wrote into an index artifact; None if its gallery was not read."""
        if WEIGHTS not in artifact.manifest.files:
            return None
        return cls(ReducedTerms.load(artifact, VOCABULARY, WEIGHTS))


def ngrams(texts: Texts, max_ngram: int) -> Iterator[str]:
    """Every n-gram of 1 to `max_ngram` characters of every text, without blanks."""
    for text in texts:
        plain = "".join(unicodedata.normalize("NFKC", text).casefold().split())
        for length in range(1, max_ngram + 1):
            for start in range(len(plain) - length + 1):
                yield plain[start : start + length]
