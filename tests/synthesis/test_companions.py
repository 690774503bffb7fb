"""Which products share a scene, on invented titles and colors whose truth is known."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from product1m.config import BackgroundSynthesisConfig
from product1m.synthesis.companions import ColorVector, Companions, Wordings, color_vector
from product1m.synthesis.cutouts import Candidate, CutAttempt
from product1m.synthesis.planning import PlanSettings, SourcePool, plan_scenes, split_backgrounds

BRANDS = ("ORALIA", "MONTE", "KERUN", "VISTAL")
EFFECTS = (
    *("hydrating", "soothing", "matte", "repair", "gentle", "rich", "daily", "night", "pure"),
    *("fresh", "light", "deep", "soft", "calm", "bright", "firm", "vital", "clear", "natural"),
)
NUM_PRODUCTS, NUM_PHOTOS = 6, 8


def catalogue() -> tuple[list[CutAttempt], dict[str, ColorVector]]:
    """Photos of 24 products; a title begins with the brand and rarely names the product."""
    generator = np.random.default_rng(0)
    sources: list[CutAttempt] = []
    colors: dict[str, ColorVector] = {}
    for brand in BRANDS:
        for product in range(NUM_PRODUCTS):
            common = generator.standard_normal(16)
            for photo in range(NUM_PHOTOS):
                words = generator.permutation(EFFECTS)[:5].tolist()
                item = f"{brand}-{product}-{photo}"
                number = len(sources)
                caption = " ".join([brand, *words])
                candidate = Candidate(number, item, caption, number, "", 0, 0, item)
                sources.append(CutAttempt(candidate, "", Path()))
                own = common + 0.4 * generator.standard_normal(16)
                colors[item] = (own / np.linalg.norm(own)).astype(np.float32)
    return sources, colors


def brand_and_product(source: CutAttempt) -> tuple[str, ...]:
    return tuple(source.candidate.id.split("-")[:2])


def test_scenes_show_different_products_of_one_brand() -> None:
    sources, colors = catalogue()
    config = BackgroundSynthesisConfig(repeat_share=0)
    pool = SourcePool(sources, PlanSettings.from_config(config), colors)
    scenes = [pool.draw(np.random.default_rng(seed)) for seed in range(150)]
    products = [[brand_and_product(source) for source in scene] for scene in scenes]
    assert np.mean([len({brand for brand, _ in scene}) == 1 for scene in products]) >= 0.97
    assert np.mean([len({*scene}) < len(scene) for scene in products]) <= 0.1
    assert {len(scene) for scene in scenes} >= {2, 3, 4}


def test_a_product_is_there_twice_as_often_as_asked_for_with_what_nobody_can_tell_apart() -> None:
    sources, colors = catalogue()
    config = BackgroundSynthesisConfig(repeat_share=0.55)
    pool = SourcePool(sources, PlanSettings.from_config(config), colors)
    scenes = [pool.draw(np.random.default_rng(seed)) for seed in range(400)]
    ids = [[source.candidate.id for source in scene] for scene in scenes]
    twice = np.mean([len({*scene}) < len(scene) for scene in ids])
    assert twice == pytest.approx((0.55 - 0.11) / (1 - 0.11), abs=0.06)


def test_a_look_is_about_colors_not_about_size(tmp_path: Path) -> None:
    colors = []
    for name, side, color in (("a", 40, 200), ("b", 90, 200), ("c", 40, 20)):
        pixels = np.zeros((side, side, 4), np.uint8)
        pixels[side // 4 : -side // 4] = (color, 60, 220 - color, 255)
        cv2.imwrite(str(tmp_path / f"{name}.png"), pixels)
        candidate = Candidate(0, name, "", 0, "", 0, 0, "")
        colors.append(color_vector(CutAttempt(candidate, "", tmp_path / f"{name}.png")))
    assert colors[0] @ colors[1] > 0.95 * (colors[0] @ colors[0])
    assert colors[0] @ colors[2] < 0.5 * (colors[0] @ colors[0])


def test_rare_ngrams_weigh_more_only_if_asked_for() -> None:
    texts = ["aaaa bbbb", "aaaa cccc", "aaaa dddd bbbb", "aaaa eeee", "aaaa ffff", "aaaa gggg"]
    plain, rare = Wordings(texts), Wordings(texts, max_share=0.5, favored="rare")
    assert plain.similarity(0)[1] > 0.2
    assert rare.similarity(0)[1] == 0
    assert rare.similarity(0)[2] > 0.2
    assert rare.similarity(0)[0] == pytest.approx(1)


def test_duplicates_are_never_companions() -> None:
    companions = Companions(["AURA cream one"] * 8, ["a"] * 4 + ["b"] * 4, None)
    assert set(companions.neighbors(0).positions.tolist()) == {4, 5, 6, 7}
    assert companions.nearest(5).tolist() == [0, 1, 2, 3]


def test_held_out_scenes_have_backgrounds_of_their_own() -> None:
    sources, colors = catalogue()
    config = BackgroundSynthesisConfig(num_scenes=60, held_out_share=0.2)
    settings = PlanSettings.from_config(config)
    rooms = [f"s3://photos/room-{number}.jpg" for number in range(10)]
    split = {"train": sources[::2], "held_out": sources[1::2]}
    used: dict[str, set[str]] = {"train": set(), "held_out": set()}
    for plan in plan_scenes(split, rooms, settings, colors):
        used[plan.split].update(plan.backgrounds)
    assert len(used["held_out"]) == 2
    assert used["train"] | used["held_out"] == set(rooms)
    assert not used["train"] & used["held_out"]
    alone = split_backgrounds(rooms[:1], settings)
    assert alone == {"train": rooms[:1], "held_out": rooms[:1]}
