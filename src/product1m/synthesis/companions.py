"""Which products may share a scene: different products of the same brand (ours).

Labels say neither. Titles begin with the brand, so two titles whose beginnings share n-grams are
from one brand. Among these, the sources whose photo or title is most like a chosen one may show the
same product, so they are left out.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from product1m.synthesis.cutouts import CutAttempt, read_cutout
from product1m.synthesis.scene_titles import join, units

_HEAD_CHARS = 16
"""Characters at the beginning of a title that hold its brand (ours)."""
_SAME_BRAND = 0.55
"""Two beginnings at least this similar are from one brand: true for 99.9 % of such pairs in the
sample (ours)."""
_MIN_OF_BRAND = 3
"""If a source has fewer others of its brand, whole titles decide (ours)."""
_MIN_NEIGHBORS, _NEIGHBOR_SHARE = 6, 0.06
"""Minimum number and share of the sources that are neighbors by whole titles (ours)."""
_MAX_SAMENESS_RANK = 0.4
"""The most similar neighbors, this share of all, may show the same product (ours)."""
_NGRAMS = (2, 3, 4)
_MAX_BRAND_SHARE = 0.6
"""An n-gram in the beginnings of more titles is not a brand (ours)."""
_MAX_ORDERS = 6
"""Orders of companions that are tried until a scene has as many products as drawn (ours)."""
_MAX_NGRAM_SHARE = 0.1
"""An n-gram in more titles says nothing about a single product (ours)."""
_GRID, _BINS = 8, 16
_CHROMA_WEIGHT, _TITLE_WEIGHT = 1.5, 4.0
"""Weights of two similarities relative to the color grid's: about the inverse ratio of their
standard deviations (ours)."""


ColorVector = Float32[np.ndarray, "K"]
"""Result of `color_vector` for a cut-out."""


def color_vector(source: CutAttempt) -> ColorVector:
    """Colors of a cut-out: their places and amounts. The inner product of two is a similarity."""
    pixels = read_cutout(source.path)
    alpha = pixels[..., 3:].astype(np.float32) / 255
    chroma = cv2.cvtColor(np.ascontiguousarray(pixels[..., :3]), cv2.COLOR_RGB2LAB)[..., 1:]
    size = (_GRID, _GRID)
    weight = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA)[..., None]
    grid = cv2.resize(chroma * alpha - 128 * alpha, size, interpolation=cv2.INTER_AREA)
    grid = np.where(weight > 0.3, grid / np.maximum(weight, 0.05), 0)
    return np.concatenate(
        [_unit(grid.ravel()), np.sqrt(_CHROMA_WEIGHT) * _colors(chroma, alpha)], dtype=np.float32
    )


def _colors(
    chroma: UInt8[np.ndarray, "h w 2"], alpha: Float32[np.ndarray, "h w 1"]
) -> Float32[np.ndarray, " K"]:
    inside = (alpha > 0.5).astype(np.uint8)
    ranges = [64.0, 192.0, 64.0, 192.0]
    counts = cv2.calcHist([chroma], [0, 1], inside, [_BINS, _BINS], ranges)
    smooth = cv2.GaussianBlur(counts, (3, 3), 0).ravel()
    return _unit(np.sqrt(smooth))


def _unit(values: Float32[np.ndarray, " K"]) -> Float32[np.ndarray, " K"]:
    return np.asarray(values / max(float(np.linalg.norm(values)), 1e-6), np.float32)


@dataclass(frozen=True)
class _Neighbors:
    """The sources with which a source may share a scene."""

    positions: Int[np.ndarray, " K"]
    different: Bool[np.ndarray, " K"]
    """Whether each seems to show another product."""
    same_brand: bool
    """Whether they are from its brand; otherwise they only have similar titles."""


class Companions:
    """Draws sources for a scene."""

    def __init__(
        self, captions: Sequence[str], keys: Sequence[str], colors: Sequence[ColorVector] | None
    ) -> None:
        """Sources with the same key are duplicates and never companions.

        Without `colors`, products are distinguished only by titles.
        """
        names = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        self._keys = np.array([names[key] for key in keys])
        texts = [join(units(caption.casefold())) for caption in captions]
        self._heads = Wordings([text[:_HEAD_CHARS] for text in texts], _MAX_BRAND_SHARE, "common")
        self._titles = Wordings(texts)
        self._names = Wordings(texts, _MAX_NGRAM_SHARE, "rare")
        self._colors_by_row = None if colors is None else np.stack(colors)

    def neighbors(self, position: int) -> _Neighbors:
        """Sources of a source's brand, or those with the most similar titles."""
        alike = self._heads.similarity(position) >= _SAME_BRAND
        near = np.flatnonzero(alike & (self._keys != self._keys[position]))
        same_brand = len(near) >= _MIN_OF_BRAND
        if not same_brand:
            count = max(_MIN_NEIGHBORS, round(_NEIGHBOR_SHARE * len(self._keys)))
            near = self.nearest(position)[:count]
        sameness = self._sameness(position, near)
        bound = np.quantile(sameness, 1 - _MAX_SAMENESS_RANK) if len(near) else 0.0
        return _Neighbors(near, sameness <= bound, same_brand)

    def _sameness(self, position: int, others: Int[np.ndarray, " K"]) -> Float[np.ndarray, " K"]:
        sameness = _TITLE_WEIGHT * self._names.similarity(position)[others]
        if self._colors_by_row is not None:
            sameness = sameness + self._colors_by_row[others] @ self._colors_by_row[position]
        return np.asarray(sameness)

    def nearest(self, position: int) -> Int[np.ndarray, " K"]:
        """All sources except its duplicates, the most similar titles first."""
        order = np.argsort(-self._titles.similarity(position), kind="stable")
        return np.asarray(order[self._keys[order] != self._keys[position]])

    def draw(self, first: int, number: int, rng: np.random.Generator) -> list[int]:
        """The first source and up to `number - 1` others, all of different products."""
        longest = [first]
        near = self.neighbors(first)
        for _ in range(_MAX_ORDERS):
            order = rng.permutation(near.positions[near.different]).tolist()
            longest = max(longest, self._in_order(first, number, order), key=len)
            if len(longest) == number:
                break
        return longest

    def _in_order(self, first: int, number: int, waiting: list[int]) -> list[int]:
        chosen = [first]
        while waiting and len(chosen) < number:
            position = waiting.pop()
            own = self.neighbors(position)
            allowed = set(own.positions[own.different].tolist())
            if not allowed.issuperset(chosen):
                continue
            chosen.append(position)
            waiting = [other for other in waiting if other in allowed]
        return chosen


Favored = Literal["none", "rare", "common"]
_WEIGHTS: Mapping[Favored, Callable[[float], float]] = {
    "none": lambda _: 1.0,
    "rare": lambda share: float(-np.log(share)),
    "common": lambda share: float(np.sqrt(share)),
}
"""Weight of an n-gram as a function of the share of texts with it (ours)."""


class Wordings:
    """Which texts share character n-grams, by an index of the n-grams."""

    def __init__(
        self, texts: Sequence[str], max_share: float = 1.0, favored: Favored = "none"
    ) -> None:
        """N-grams that occur in more than `max_share` of the texts are left out.

        `favored` says which of the others weigh more. Rare n-grams come from a product's own words,
        common ones from its brand's.
        """
        ngrams_of = [_ngrams(text) for text in texts]
        texts_with: dict[str, list[int]] = defaultdict(list)
        for position, ngrams in enumerate(ngrams_of):
            for ngram in ngrams:
                texts_with[ngram].append(position)
        limit = max(max_share * len(texts), 2)
        self._texts_with = {
            ngram: np.array(holders, np.int32)
            for ngram, holders in texts_with.items()
            if len(holders) <= limit
        }
        self._weights = {
            ngram: _WEIGHTS[favored](len(holders) / len(texts))
            for ngram, holders in self._texts_with.items()
        }
        self._ngrams = [[n for n in ngrams if n in self._weights] for ngrams in ngrams_of]
        squares = [sum(self._weights[n] ** 2 for n in ngrams) for ngrams in self._ngrams]
        self._norms = np.sqrt(np.maximum(squares, 1e-12))

    def similarity(self, position: int) -> Float[np.ndarray, " N"]:
        """Cosine between a text's set of n-grams and that of every text."""
        ngrams = self._ngrams[position]
        texts = [self._texts_with[ngram] for ngram in ngrams]
        squares = [
            np.full(len(t), self._weights[n] ** 2) for n, t in zip(ngrams, texts, strict=True)
        ]
        shared = np.bincount(
            np.concatenate([np.empty(0, np.int32), *texts]),
            np.concatenate([np.empty(0), *squares]),
            minlength=len(self._ngrams),
        )
        return np.asarray(shared / (self._norms * self._norms[position]))


def _ngrams(text: str) -> list[str]:
    return sorted(
        {
            text[start : start + length]
            for length in _NGRAMS
            for start in range(len(text) - length + 1)
        }
    )
