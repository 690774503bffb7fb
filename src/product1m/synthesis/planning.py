"""Which cut-outs share a scene: separate for train and held out, mostly with words in common."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from product1m.config import BackgroundSynthesisConfig
from product1m.errors import DatasetError
from product1m.synthesis.compose import PLAN, ScenePlan
from product1m.synthesis.cutouts import CutAttempt
from product1m.synthesis.scene_titles import TitleComposer, join, units

_MAX_BACKGROUNDS = 16
"""Damaged background photos in a row that stop the step (ours)."""
KIND = 2
"""What a third generator of a scene is for, beside its plan and its rendering."""
_PLAIN_SHARE = 0.4
"""Share of the scenes with one or no product on a plain background instead of a photo (ours)."""
_NEIGHBOR_SHARE = 0.06
"""Share of the sources, those with the titles nearest to the first's, of which the others are drawn
(ours)."""
_MIN_NEIGHBORS = 6
"""The smallest number of them (ours)."""
_NGRAMS = (2, 3, 4)
"""Lengths of the character n-grams by which titles are compared, each counted once (ours).

Without document frequencies: those favor a product's own words over its brand's.
"""


@dataclass(frozen=True)
class PlanSettings:
    """How many scenes there are and which products they show.

    The section `background_synthesis` of the configuration explains each value.
    """

    num_scenes: int
    held_out_share: float
    min_products: int
    max_products: int
    shared_words_share: float
    repeat_share: float
    empty_share: float
    single_share: float
    turned_share: float
    distractor_share: float
    max_distractors: int
    max_title_chars: int
    seed: int

    @classmethod
    def from_config(cls, config: BackgroundSynthesisConfig) -> "PlanSettings":
        """The values of a configuration."""
        return cls(
            num_scenes=config.num_scenes,
            held_out_share=config.held_out_share,
            min_products=config.min_products,
            max_products=config.max_products,
            shared_words_share=config.shared_words_share,
            repeat_share=config.repeat_share,
            empty_share=config.empty_share,
            single_share=config.single_share,
            turned_share=config.turned_share,
            distractor_share=config.distractor_share,
            max_distractors=config.max_distractors,
            max_title_chars=config.max_title_chars,
            seed=config.seed,
        )

    @property
    def num_held_out(self) -> int:
        """The number of held-out scenes; they are the last ones."""
        return round(self.held_out_share * self.num_scenes)


def plan_scenes(
    split: Mapping[str, Sequence[CutAttempt]], backgrounds: Sequence[str], settings: PlanSettings
) -> Iterator[ScenePlan]:
    """The plans of all scenes, train ones first; each depends on seed and number alone."""
    pools = {name: SourcePool(sources, settings) for name, sources in split.items() if sources}
    num_train = settings.num_scenes - settings.num_held_out
    for number in range(settings.num_scenes):
        rng = np.random.default_rng([settings.seed, number, PLAN])
        name = "train" if number < num_train else "held_out"
        sources = pools[name].draw(rng)
        tried = rng.integers(len(backgrounds), size=_MAX_BACKGROUNDS) if backgrounds else ()
        kind = _Kind.draw(settings, np.random.default_rng([settings.seed, number, KIND]))
        sources = sources[: kind.max_products]
        title = pools[name].compose_title(sources, rng) if sources else ""
        photos = [backgrounds[int(k)] for k in tried]
        yield ScenePlan(
            number,
            name,
            sources,
            title,
            photos,
            kind.num_distractors,
            kind.is_turned,
            kind.is_plain,
        )


@dataclass(frozen=True)
class _Kind:
    """Whether a scene shows several products, one or none, and what else."""

    max_products: int | None
    num_distractors: int
    is_turned: bool
    is_plain: bool

    @classmethod
    def draw(cls, settings: PlanSettings, rng: np.random.Generator) -> "_Kind":
        kind, plain, turned, distracted = rng.random(4)
        number = int(rng.integers(1, settings.max_distractors + 1))
        number *= int(distracted < settings.distractor_share)
        is_turned, is_plain = bool(turned < settings.turned_share), bool(plain < _PLAIN_SHARE)
        if kind < settings.empty_share:
            return cls(0, number, is_turned, is_plain)
        if kind < settings.empty_share + settings.single_share:
            return cls(1, number, is_turned, is_plain)
        return cls(None, number, is_turned, is_plain=False)


class SourcePool:
    """The cut-outs of one split."""

    def __init__(self, sources: Sequence[CutAttempt], settings: PlanSettings) -> None:
        self.sources = sources
        self._settings = settings
        self._groups = [group_of(source) for source in sources]
        captions = [source.candidate.caption for source in sources]
        self._titles = TitleComposer(captions)
        self._wordings = Wordings([join(units(caption)).casefold() for caption in captions])

    def draw(self, rng: np.random.Generator) -> list[CutAttempt]:
        """A scene's sources: of different groups, but one twice in `repeat_share` of the scenes."""
        settings = self._settings
        number = int(rng.integers(settings.min_products, settings.max_products + 1))
        first = int(rng.integers(len(self.sources)))
        alike, repeated = rng.random(2) < (settings.shared_words_share, settings.repeat_share)
        order = self._nearest(first, rng) if alike else rng.permutation(len(self.sources))
        num_different = number - int(repeated and number > 1)
        chosen = {self._groups[first]: first}
        for position in order.tolist():
            if len(chosen) == num_different:
                break
            chosen.setdefault(self._groups[position], position)
        positions = list(chosen.values())
        while len(positions) < number:
            positions.append(positions[int(rng.integers(len(positions)))])
        return [self.sources[position] for position in rng.permutation(positions).tolist()]

    def compose_title(self, sources: Sequence[CutAttempt], rng: np.random.Generator) -> str:
        """A title of a scene of these sources."""
        captions = [source.candidate.caption for source in sources]
        return self._titles.compose(captions, self._settings.max_title_chars, rng)

    def _nearest(self, first: int, rng: np.random.Generator) -> Int[np.ndarray, " K"]:
        """The sources with titles like the first's, shuffled; then all others, nearest first."""
        order = np.argsort(-self._wordings.similarity(first), kind="stable")
        count = max(_MIN_NEIGHBORS, round(_NEIGHBOR_SHARE * len(order)))
        return np.concatenate([rng.permutation(order[:count]), order[count:]])


class Wordings:
    """Which texts share character n-grams, by an index of the n-grams."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._ngrams = [_ngrams(text) for text in texts]
        self._norms = np.sqrt([max(1, len(ngrams)) for ngrams in self._ngrams])
        texts_with: dict[str, list[int]] = defaultdict(list)
        for position, ngrams in enumerate(self._ngrams):
            for ngram in ngrams:
                texts_with[ngram].append(position)
        self._texts_with = {ngram: np.array(found) for ngram, found in texts_with.items()}

    def similarity(self, position: int) -> Float[np.ndarray, " N"]:
        """Cosine of a text's n-grams, as a set, with every text's."""
        empty = np.empty(0, np.int64)
        ngrams = self._ngrams[position]
        texts = np.concatenate([empty, *(self._texts_with[ngram] for ngram in ngrams)])
        shared = np.bincount(texts, minlength=len(self._ngrams))
        return np.asarray(shared / (self._norms * self._norms[position]))


def split_sources(
    sources: Sequence[CutAttempt], settings: PlanSettings
) -> dict[str, list[CutAttempt]]:
    """The cut-outs for `train` and for `held_out` scenes: no group of duplicates is in both.

    Raises DatasetError if there are too few groups for both.
    """
    groups = sorted(
        {group_of(source) for source in sources}, key=lambda group: _hash(group, settings.seed)
    )
    num_held_out = settings.num_held_out
    share = num_held_out / settings.num_scenes
    count = max(int(num_held_out > 0), round(share * len(groups)))
    count = min(count, len(groups) - int(num_held_out < settings.num_scenes))
    held_out = set(groups[:count])
    split = {
        "train": [source for source in sources if group_of(source) not in held_out],
        "held_out": [source for source in sources if group_of(source) in held_out],
    }
    if count < int(num_held_out > 0) or not sources:
        raise DatasetError(
            f"{len(sources)} cut-outs of {len(groups)} different products are too few for train "
            "and held-out scenes; cutouts.png shows the rejected ones. Relax "
            "background_synthesis.min_mask_area, max_border_contact, min_dominant_share, set_words"
        )
    return split


def group_of(source: CutAttempt) -> str:
    """What duplicates have in common: the item table's group, or without one the caption."""
    candidate = source.candidate
    return str(candidate.group) if candidate.group >= 0 else f"caption {candidate.caption}"


def _ngrams(text: str) -> set[str]:
    return {
        text[start : start + length]
        for length in _NGRAMS
        for start in range(len(text) - length + 1)
    }


def _hash(group: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed} {group}".encode(), digest_size=8).digest()
