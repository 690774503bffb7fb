"""Settings of `background_synthesis`."""

from typing import Annotated

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from product1m.config.section import Fraction, StepConfig

MIN_SCENES = 40
"""Minimum number of scenes where it follows the number of cut-outs (ours)."""


def fitting_scenes(num_cutouts: float, scenes_per_cutout: float, num_scenes: int) -> int:
    """Number of scenes that fits the cut-outs, at most `num_scenes`; that if it does not follow."""
    if not scenes_per_cutout:
        return num_scenes
    return min(num_scenes, max(MIN_SCENES, round(scenes_per_cutout * num_cutouts)))


class BackgroundSynthesisConfig(StepConfig):
    """Compose scenes from products cut out of single-product photos (paper)."""

    num_scenes: PositiveInt = 50_000
    """Scenes to compose, including held-out ones (ours; the paper does not say)."""
    scenes_per_cutout: NonNegativeFloat = 0.0
    """Scenes to compose for each cut-out, at least 40 and at most `num_scenes`; 0 always composes
    `num_scenes` (ours)."""
    held_out_share: Fraction = 0.1
    """Share of scenes held out for measuring; no source photo and no background is in both parts,
    and no product as far as labels or groups of duplicates tell (ours)."""
    scene_width_px: PositiveInt = 800
    """Width of a scene (ours)."""
    scene_height_px: PositiveInt = 800
    """Height of a scene (ours)."""
    min_products: PositiveInt = 2
    """Minimum number of products in a scene (ours)."""
    max_products: PositiveInt = 5
    """Maximum number of products in a scene (ours)."""
    min_scale: PositiveFloat = 0.25
    """Smallest longer side of a pasted product, relative to the scene's shorter side (ours)."""
    max_scale: PositiveFloat = 0.65
    """Largest longer side of a pasted product, relative to the scene's shorter side (ours)."""
    max_rotation_deg: NonNegativeFloat = 15.0
    """Largest rotation of a pasted product, in either direction (ours)."""
    flip_probability: Fraction = 0.0
    """Probability that a product is mirrored; mirrored lettering looks wrong (ours)."""
    max_brightness_change: Fraction = 0.25
    """Brightness of a pasted product is scaled by 1 ± this value (ours)."""
    edge_softness_px: NonNegativeFloat = 1.0
    """Standard deviation of the blur at the edge of a cut-out (ours)."""
    max_occlusion: Fraction = 0.4
    """Largest share of a pasted product that other products may cover (ours)."""
    max_shadow: Fraction = 0.4
    """Largest share by which a product's shadow darkens the background (ours)."""
    shared_words_share: Fraction = 1.0
    """Share of scenes whose products have titles with the same beginning, and so are of one brand,
    as in nearly all real multi-product photos (ours)."""
    repeat_share: Fraction = 0.15
    """Share of scenes with several products that show one of them twice (ours: as in the real
    lists)."""
    empty_share: Fraction = 0.1
    """Share of scenes without any product, so that the detector learns where nothing is (ours)."""
    single_share: Fraction = 0.1
    """Share of scenes with a single product (ours)."""
    turned_share: Fraction = 0.25
    """Share of scenes whose products lie in any direction, as in photos taken from above (ours)."""
    distractor_share: Fraction = 0.5
    """Share of scenes with distractors: pieces of backgrounds and banners, which are not products
    (ours)."""
    max_distractors: PositiveInt = 4
    """Maximum number of distractors in a scene (ours)."""
    max_damaged_backgrounds: Fraction = 0.5
    """If a larger share of the background photos cannot be decoded, the step stops (ours)."""
    grabcut_side_px: PositiveInt = 256
    """Longer side of the photo that GrabCut works on (ours)."""
    grabcut_iterations: PositiveInt = 2
    """GrabCut iterations; more make no measurable difference (ours)."""
    grabcut_margin: Annotated[float, Field(ge=0, lt=0.5)] = 0.01
    """Width of the frame that GrabCut takes for background, relative to the photo's sides
    (ours)."""
    grabcut_dither: NonNegativeFloat = 3.0
    """Gray levels of noise added so that GrabCut does not overfit a backdrop of one exact color
    (ours)."""
    min_mask_area: Fraction = 0.05
    """A cut-out that covers a smaller share of its photo is rejected (ours)."""
    max_mask_area: Fraction = 0.9
    """A cut-out that covers a larger share of its photo is rejected (ours)."""
    max_border_contact: Fraction = 0.15
    """A cut-out that touches a larger share of the photo's border is rejected (ours)."""
    min_dominant_share: Fraction = 0.75
    """Minimum share of the mask that its largest connected part covers: one product with perhaps a
    badge or a few letters of a banner (ours)."""
    max_faint_edge: Fraction = 0.5
    """Largest share of a mask's outline without an edge in the photo; more means that the product
    has the color of its backdrop (ours)."""
    max_cutouts: PositiveInt = 50_000
    """Maximum number of photos that GrabCut works on, drawn at random from the candidates
    (ours)."""
    set_words: tuple[str, ...] = (
        "套装",
        "套盒",
        "礼盒",
        "组合",
        "件套",
        "两件",
        "三件",
        "四件",
        "全套",
        "套组",
        "礼包",
        "set of",
        "gift set",
        "bundle",
    )
    """Words that mark the title of a set of products; photos of sets are not cut out (ours)."""
    max_title_chars: PositiveInt = 34
    """Maximum length of a composed scene title: 36 tokens with [CLS] and [SEP] (ours)."""
    keep_sources: bool = False
    """Write the photos that products were cut from beside the scenes, for
    `rpn_training.instance_weight` (ours)."""
    num_workers: PositiveInt = 2
    """Processes that cut and paste (ours)."""
    shard_mib: PositiveInt = 256
    """Maximum size of a scene shard (ours)."""

    @model_validator(mode="after")
    def _bounds_do_not_cross(self) -> "BackgroundSynthesisConfig":
        for name, low, high in (
            ("products", self.min_products, self.max_products),
            ("scale", self.min_scale, self.max_scale),
            ("mask_area", self.min_mask_area, self.max_mask_area),
        ):
            if low > high:
                raise ValueError(f"min_{name} = {low} is above max_{name} = {high}")
        if self.empty_share + self.single_share > 1:
            raise ValueError("empty_share and single_share: expected a sum of at most 1")
        return self
