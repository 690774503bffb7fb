"""The block `ocr`: character n-grams of the text printed on a pack.

Spaces are left out, because text readers lose them between small words. Case and Unicode form are
ignored. N-grams do not cross lines, and the order of lines does not matter. For a gallery item, its
title is added to its lines. The block is fitted on the gallery and stored like the text block, as a
JSON vocabulary and safetensors.
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
from product1m.data.vectors import normalize
from product1m.retrieval.text import ReducedTerms, main_directions

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

VOCABULARY = "ocr_vocabulary.json"
WEIGHTS = "ocr_block.safetensors"

Texts = Sequence[str]
"""Lines of one pack; for a gallery item, also its title."""


class PrintedTextEncoder:
    """Encodes lines as reduced TF-IDF vectors of at most unit length; zeros if no n-gram is known.

    A vector's length is the share of the read text that the gallery knows, so that a single letter
    counts little and a whole name much (ours).
    """

    def __init__(self, terms: ReducedTerms) -> None:
        self.terms = terms
        self._column = {term: column for column, term in enumerate(terms.vocabulary)}

    @classmethod
    def fit(
        cls, packs: Sequence[Texts], dim: int, max_ngram: int, max_terms: int, seed: int
    ) -> "PrintedTextEncoder":
        """Fit on the gallery; narrower than `dim` if there are fewer items, 1 wide without text."""
        counts = [Counter(ngrams(pack, max_ngram)) for pack in packs]
        frequency = Counter(term for pack in counts for term in pack)
        # The most frequent n-grams; among equally frequent ones, the first in sort order.
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
        """Vectors of gallery items, of unit length whatever the reduction lost."""
        return normalize(self.encode(packs))

    def _weighted(self, packs: Sequence[Texts]) -> tuple["csr_matrix", Float32[np.ndarray, " n"]]:
        """TF-IDF of the known n-grams, and each row's length including unknown n-grams.

        A count n has the weight 1 + ln n. An unknown n-gram counts like one from a single item.
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
        """Read what `save` wrote into an index artifact; None if it has no printed text."""
        if WEIGHTS not in artifact.manifest.files:
            return None
        return cls(ReducedTerms.load(artifact, VOCABULARY, WEIGHTS))


def ngrams(texts: Texts, max_ngram: int) -> Iterator[str]:
    """Every n-gram of 1 to `max_ngram` characters of every text, without spaces."""
    for text in texts:
        plain = "".join(unicodedata.normalize("NFKC", text).casefold().split())
        for length in range(1, max_ngram + 1):
            for start in range(len(plain) - length + 1):
                yield plain[start : start + length]
