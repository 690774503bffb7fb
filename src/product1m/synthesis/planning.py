"""Plan which cut-outs share a scene, separately for train and held-out scenes."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from product1m.config import BackgroundSynthesisConfig
from product1m.config.background_synthesis import fitting_scenes
from product1m.errors import DatasetError
from product1m.synthesis.companions import ColorVector, Companions
from product1m.synthesis.compose import PLAN, ScenePlan
from product1m.synthesis.cutouts import CutAttempt
from product1m.synthesis.scene_titles import TitleComposer

_MAX_BACKGROUNDS = 16
"""The step stops after this many damaged background photos in a row (ours)."""
KIND = 2
"""Key of a scene's third random generator, besides those for its plan and its rendering."""
_PLAIN_SHARE = 0.4
"""Share of the scenes with one or no product on a plain background instead of a photo (ours)."""
_MAX_FIRSTS = 8
"""Number of first sources tried until one has others of its brand (ours)."""
_UNINTENDED_REPEATS = 0.11
"""Share of scenes that unintentionally show a product twice, because its sources could not be
distinguished (ours, measured on the sample by `benchmarks/scenes.py`)."""


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
        """The settings in a configuration section."""
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

    def sized(self, num_cutouts: int, scenes_per_cutout: float) -> "PlanSettings":
        """These settings with a number of scenes that fits the cut-outs; 0 leaves it unchanged."""
        return replace(
            self, num_scenes=fitting_scenes(num_cutouts, scenes_per_cutout, self.num_scenes)
        )

    @property
    def num_held_out(self) -> int:
        """Number of held-out scenes; they come last."""
        return round(self.held_out_share * self.num_scenes)


def plan_scenes(
    split: Mapping[str, Sequence[CutAttempt]],
    backgrounds: Sequence[str],
    settings: PlanSettings,
    colors: Mapping[str, ColorVector] | None = None,
) -> Iterator[ScenePlan]:
    """The plans of all scenes, train scenes first; each depends only on seed and number.

    Train and held-out scenes have different backgrounds if there are at least two photos.
    """
    pools = {
        name: SourcePool(sources, settings, colors) for name, sources in split.items() if sources
    }
    photos_of = split_backgrounds(backgrounds, settings)
    num_train = settings.num_scenes - settings.num_held_out
    for number in range(settings.num_scenes):
        rng = np.random.default_rng([settings.seed, number, PLAN])
        name = "train" if number < num_train else "held_out"
        sources = pools[name].draw(rng)
        known = photos_of[name]
        tried = rng.integers(len(known), size=_MAX_BACKGROUNDS) if known else ()
        kind = _Kind.draw(settings, np.random.default_rng([settings.seed, number, KIND]))
        sources = sources[: kind.max_products]
        title = pools[name].compose_title(sources, rng) if sources else ""
        photos = [known[int(k)] for k in tried]
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
    """Whether a scene shows several products, one or none, and what else it contains."""

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

    def __init__(
        self,
        sources: Sequence[CutAttempt],
        settings: PlanSettings,
        colors: Mapping[str, ColorVector] | None = None,
    ) -> None:
        """`colors` are by source id; without them, products are distinguished only by titles."""
        self.sources = sources
        self._settings = settings
        self._groups = [group_of(source) for source in sources]
        captions = [source.candidate.caption for source in sources]
        self._titles = TitleComposer(captions)
        own = None if colors is None else [colors[source.candidate.id] for source in sources]
        self._companions = Companions(captions, self._groups, own)
        share = (settings.repeat_share - _UNINTENDED_REPEATS) / (1 - _UNINTENDED_REPEATS)
        self._repeat_share = max(0.0, share)

    def draw(self, rng: np.random.Generator) -> list[CutAttempt]:
        """A scene's sources: as far as known, different products of one brand.

        Sometimes one source is used twice, so that, including unintended repeats, `repeat_share` of
        the scenes show a product twice. A scene has fewer products than drawn if the brand has too
        few different ones.
        """
        settings = self._settings
        number = int(rng.integers(settings.min_products, settings.max_products + 1))
        alike, repeated = rng.random(2) < (settings.shared_words_share, self._repeat_share)
        num_different = number - int(repeated and number > 1)
        positions = self._different(num_different, bool(alike), rng)
        if repeated:
            positions.append(positions[int(rng.integers(len(positions)))])
        while len(positions) < settings.min_products:
            positions.append(positions[int(rng.integers(len(positions)))])
        return [self.sources[position] for position in rng.permutation(positions).tolist()]

    def _different(self, number: int, alike: bool, rng: np.random.Generator) -> list[int]:
        chosen: list[int] = []
        if alike:
            for _ in range(_MAX_FIRSTS):
                first = int(rng.integers(len(self.sources)))
                if self._companions.neighbors(first).same_brand:
                    break
            chosen = self._companions.draw(first, number, rng)
            if len(chosen) >= min(number, 2):
                return chosen
        order = self._companions.nearest(first) if alike else rng.permutation(len(self.sources))
        groups = {self._groups[position] for position in chosen}
        for position in order.tolist():
            if len(chosen) >= number:
                break
            if self._groups[position] not in groups:
                chosen.append(position)
                groups.add(self._groups[position])
        return chosen

    def compose_title(self, sources: Sequence[CutAttempt], rng: np.random.Generator) -> str:
        """A title for a scene with these sources."""
        captions = [source.candidate.caption for source in sources]
        return self._titles.compose(captions, self._settings.max_title_chars, rng)


def split_sources(
    sources: Sequence[CutAttempt], settings: PlanSettings
) -> dict[str, list[CutAttempt]]:
    """The cut-outs for `train` and for `held_out` scenes.

    No group of duplicates is in both, and no label if the items have labels. Raises DatasetError if
    there are too few groups for both.
    """
    products = _products_of(sources)
    groups = sorted(set(products), key=lambda group: _hash(group, settings.seed))
    num_held_out = settings.num_held_out
    share = num_held_out / settings.num_scenes
    count = max(int(num_held_out > 0), round(share * len(groups)))
    count = min(count, len(groups) - int(num_held_out < settings.num_scenes))
    held_out = set(groups[:count])
    named = list(zip(sources, products, strict=True))
    split = {
        "train": [source for source, product in named if product not in held_out],
        "held_out": [source for source, product in named if product in held_out],
    }
    if count < int(num_held_out > 0) or not sources:
        raise DatasetError(
            f"{len(sources)} cut-outs of {len(groups)} different products are too few for train "
            "and held-out scenes; cutouts.png shows the rejected ones. Relax "
            "background_synthesis.min_mask_area, max_border_contact, min_dominant_share, set_words"
        )
    return split


def split_backgrounds(photos: Sequence[str], settings: PlanSettings) -> dict[str, list[str]]:
    """The background photos of `train` and `held_out` scenes; a single photo is used for both."""
    share = settings.num_held_out / settings.num_scenes
    count = round(share * len(photos))
    if 0 < share < 1 and len(photos) > 1:
        count = min(max(count, 1), len(photos) - 1)
    elif len(photos) == 1:
        return {"train": list(photos), "held_out": list(photos)}
    ordered = sorted(photos, key=lambda photo: _hash(photo.rpartition("/")[2], settings.seed))
    held_out = set(ordered[:count])
    return {
        "train": [photo for photo in photos if photo not in held_out],
        "held_out": [photo for photo in photos if photo in held_out],
    }


def _products_of(sources: Sequence[CutAttempt]) -> list[str]:
    """A name of each source's product, the same for sources with a common group or label."""
    parents: dict[str, str] = {}

    def top(key: str) -> str:
        while parents.setdefault(key, key) != key:
            key = parents[key]
        return key

    for source in sources:
        group = top(group_of(source))
        for label in source.candidate.labels:
            parents[top(f"label {label}")] = group
            group = top(group)
    return [top(group_of(source)) for source in sources]


def group_of(source: CutAttempt) -> str:
    """Key that duplicates share: the item table's group, or the caption if there is none."""
    candidate = source.candidate
    return str(candidate.group) if candidate.group >= 0 else f"caption {candidate.caption}"


def _hash(group: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed} {group}".encode(), digest_size=8).digest()
