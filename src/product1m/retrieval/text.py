"""The text block: character n-gram TF-IDF of a caption, reduced by a truncated SVD.

It needs no tokenizer and no training, so it handles model numbers, brands and Chinese alike. It is
fitted on the gallery's captions, and stored as a JSON vocabulary and safetensors.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32
from safetensors.numpy import load_file, save_file

from product1m.artifacts.folder import Artifact
from product1m.data.vectors import normalize
from product1m.errors import RetrievalError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import TfidfVectorizer

VOCABULARY = "text_vocabulary.json"
WEIGHTS = "text_block.safetensors"


@dataclass(frozen=True)
class ReducedTerms:
    """Weights of n-grams, and their vectors after the reduction."""

    vocabulary: list[str]
    idf: Float32[np.ndarray, " V"]
    components: Float32[np.ndarray, "V K"]
    max_ngram: int

    def save(self, folder: Path, vocabulary: str, weights: str) -> None:
        """Write the vocabulary as JSON and the numbers as safetensors."""
        state = {"max_ngram": self.max_ngram, "terms": self.vocabulary}
        (folder / vocabulary).write_text(json.dumps(state, ensure_ascii=False), "utf-8")
        save_file({"idf": self.idf, "components": self.components}, folder / weights)

    @classmethod
    def load(cls, artifact: Artifact, vocabulary: str, weights: str) -> "ReducedTerms":
        """Read what `save` wrote into an index artifact."""
        state = json.loads(artifact.file(vocabulary).read_text("utf-8"))
        numbers = load_file(artifact.file(weights))
        idf, components = (numbers[name].astype(np.float32) for name in ("idf", "components"))
        return cls(state["terms"], idf, components, state["max_ngram"])


class TextEncoder:
    """Encodes captions as reduced TF-IDF vectors of unit length; zeros if no n-gram is known."""

    def __init__(self, terms: ReducedTerms) -> None:
        self.terms = terms
        self._vectorizer = _vectorizer(terms.max_ngram, vocabulary=terms.vocabulary)
        self._vectorizer.idf_ = terms.idf

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return int(self.terms.components.shape[1])

    @classmethod
    def fit(
        cls, captions: Sequence[str], dim: int, max_ngram: int, max_terms: int, seed: int
    ) -> "TextEncoder":
        """Fit on the gallery's captions; narrower than `dim` if there are fewer captions."""
        vectorizer = _vectorizer(max_ngram, max_features=max_terms)
        try:
            counts = vectorizer.fit_transform(captions)
        except ValueError as error:
            raise RetrievalError(
                f"the text block needs captions: none of the gallery's {len(captions)} has a "
                f"character to count ({error}); check the gallery list"
            ) from error
        idf = vectorizer.idf_.astype(np.float32)
        vocabulary = vectorizer.get_feature_names_out().tolist()
        return cls(ReducedTerms(vocabulary, idf, main_directions(counts, dim, seed), max_ngram))

    def encode(self, captions: Sequence[str]) -> Float32[np.ndarray, "n K"]:
        """The captions' vectors, row for row."""
        distinct, rows = np.unique(np.array(captions, dtype=object), return_inverse=True)
        reduced = self._vectorizer.transform(distinct).astype(np.float32) @ self.terms.components
        return normalize(reduced)[rows]

    def save(self, folder: Path) -> None:
        """Write vocabulary and numbers."""
        self.terms.save(folder, VOCABULARY, WEIGHTS)

    @classmethod
    def load(cls, artifact: Artifact) -> "TextEncoder":
        """Read what `save` wrote into an index artifact."""
        return cls(ReducedTerms.load(artifact, VOCABULARY, WEIGHTS))


def main_directions(counts: "csr_matrix", dim: int, seed: int) -> Float32[np.ndarray, "V K"]:
    """The right singular vectors of the largest singular values, at most `dim`, as columns."""
    from sklearn.decomposition import TruncatedSVD

    width = min(dim, *counts.shape)
    svd = TruncatedSVD(width, random_state=seed).fit(counts)
    directions: Float32[np.ndarray, "K V"] = svd.components_.astype(np.float32)
    # A singular vector's sign is arbitrary: its largest entry is made positive.
    largest = np.abs(directions).argmax(axis=1)
    signs = np.sign(directions[np.arange(width), largest])
    return np.ascontiguousarray((directions * signs[:, None]).T)


def _vectorizer(
    max_ngram: int, vocabulary: list[str] | None = None, max_features: int | None = None
) -> "TfidfVectorizer":
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(
        analyzer="char",
        ngram_range=(1, max_ngram),
        vocabulary=vocabulary,
        max_features=max_features,
        dtype=np.float32,
    )
