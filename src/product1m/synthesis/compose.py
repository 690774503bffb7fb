"""Compose a scene. Its plan and all random choices depend only on seed and number."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from product1m.config import BackgroundSynthesisConfig
from product1m.data.geometry import CORNERS
from product1m.data.photos import encode_jpeg
from product1m.errors import DatasetError
from product1m.synthesis.backgrounds import draw_background, draw_plain, read_background
from product1m.synthesis.coco import annotation
from product1m.synthesis.cutouts import CutAttempt, read_cutout
from product1m.synthesis.distractors import with_distractors
from product1m.synthesis.paste import PastedScene, PasteSettings, paste

PLAN, RENDER = 0, 1
"""Keys of a scene's random generators; seed, number and key together are a generator's seed."""
_MAX_SINGLE_SCALE = 0.95
"""Longest side of a product that is alone in a scene, relative to its shorter side (ours)."""
_MAX_LAYOUTS = 8
"""Number of layouts tried until a scene shows `min_products` (ours)."""


@dataclass(frozen=True)
class SceneSettings:
    """How plans become scenes.

    The section `background_synthesis` of the configuration explains each value.
    """

    width_px: int
    height_px: int
    min_products: int
    paste: PasteSettings
    seed: int

    @classmethod
    def from_config(cls, config: BackgroundSynthesisConfig) -> "SceneSettings":
        """The settings in a configuration section."""
        return cls(
            width_px=config.scene_width_px,
            height_px=config.scene_height_px,
            min_products=config.min_products,
            paste=PasteSettings.from_config(config),
            seed=config.seed,
        )

    def paste_of(self, plan: "ScenePlan") -> PasteSettings:
        """How a scene's products are placed; a single product may fill the scene."""
        paste = self.paste
        if plan.is_turned:
            paste = replace(paste, max_rotation_deg=180.0)
        if len(plan.sources) == 1:
            paste = replace(paste, max_scale=max(paste.max_scale, _MAX_SINGLE_SCALE))
        return paste


@dataclass(frozen=True)
class ScenePlan:
    """What a scene will show."""

    number: int
    split: str
    sources: Sequence[CutAttempt]
    title: str
    backgrounds: Sequence[str]
    """Addresses of photos; the first readable one is used. Empty: the background is drawn."""
    num_distractors: int = 0
    """Number of things on the background that are not products."""
    is_turned: bool = False
    """Whether its products are turned by any angle."""
    is_plain: bool = False
    """Whether the background is one color, a gradient or noise instead of a photo."""


@dataclass(frozen=True)
class ComposedScene:
    """A finished scene, ready to be written."""

    plan: ScenePlan
    encoded: bytes
    annotations: list[dict[str, Any]]
    instances: list[dict[str, Any]]
    num_dropped: int
    background: str | None
    """The background photo, unless it was drawn."""
    damaged: Sequence[str]
    """Background photos that could not be read."""

    @property
    def id(self) -> str:
        """The scene's item id."""
        return f"scene-{self.plan.number:06d}"


def compose(plan: ScenePlan, settings: SceneSettings) -> ComposedScene:
    """Render a planned scene.

    Raises DatasetError if none of its backgrounds can be read.
    """
    rng = np.random.default_rng([settings.seed, plan.number, RENDER])
    size = settings.width_px, settings.height_px
    photo, damaged = read_background(plan.backgrounds, *size, rng)
    background = draw_plain(*size, rng) if plan.is_plain else photo
    if background is None and plan.backgrounds:
        raise DatasetError(
            f"none of the {len(set(damaged))} background photos tried can be read, for example "
            f"{damaged[0]}; remove or replace the damaged files"
        )
    if background is None:
        background = draw_background(*size, rng)
    if plan.num_distractors:
        number = plan.num_distractors
        background = with_distractors(background, photo, number, settings.paste, rng)
    if not plan.sources:
        return _finished(plan, PastedScene(background, (), 0), damaged)
    cutouts = [read_cutout(source.path) for source in plan.sources]
    for _ in range(_MAX_LAYOUTS):
        scene = paste(background, cutouts, settings.paste_of(plan), rng)
        if len(scene.products) >= min(len(cutouts), settings.min_products):
            break
    return _finished(plan, scene, damaged)


def _finished(plan: ScenePlan, scene: PastedScene, damaged: Sequence[str]) -> ComposedScene:
    ids = [plan.sources[product.source].candidate.id for product in scene.products]
    named = list(zip(scene.products, ids, strict=True))
    instances = [
        {
            "scene": plan.number,
            "source_id": source_id,
            **dict(zip(CORNERS, map(float, product.box_xyxy), strict=True)),
            "visible": product.visible,
        }
        for product, source_id in named
    ]
    return ComposedScene(
        plan,
        encode_jpeg(scene.photo),
        [annotation(product, source_id) for product, source_id in named],
        instances,
        scene.num_dropped,
        plan.backgrounds[len(damaged)] if plan.backgrounds else None,
        damaged,
    )
