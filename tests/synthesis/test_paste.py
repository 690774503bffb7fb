"""Pasting: what is visible is recounted pixel by pixel, from the colors of the finished scene."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Bool, UInt8
from pycocotools import mask as coco

from product1m.config import BackgroundSynthesisConfig
from product1m.synthesis.backgrounds import draw_background
from product1m.synthesis.coco import encode_runs
from product1m.synthesis.paste import PastedScene, PasteSettings, paste

PLAIN = replace(
    PasteSettings.from_config(BackgroundSynthesisConfig()),
    max_rotation_deg=0,
    max_brightness_change=0,
    edge_softness_px=0,
    max_shadow=0,
    flip_probability=0,
)
"""Nothing that changes a color, so that every pixel of a scene names its product."""
COLORS = [(200, 0, 0), (0, 180, 0), (0, 0, 220), (190, 190, 0), (0, 170, 170)]


def plain_cutout(number: int, height: int, width: int) -> UInt8[np.ndarray, "h w 4"]:
    return np.full((height, width, 4), (*COLORS[number], 255), np.uint8)


def plain_scene(seed: int, settings: PasteSettings = PLAIN) -> PastedScene:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(40, 90, (5, 2)).tolist()
    cutouts = [plain_cutout(k, height, width) for k, (height, width) in enumerate(sizes)]
    return paste(np.full((120, 160, 3), 128, np.uint8), cutouts, settings, rng)


@pytest.mark.parametrize("seed", range(5))
def test_boxes_and_masks_are_those_of_the_visible_pixels(seed: int) -> None:
    scene = plain_scene(seed)
    for product in scene.products:
        seen = [
            (x, y)
            for y in range(120)
            for x in range(160)
            if tuple(scene.photo[y, x].tolist()) == COLORS[product.source]
        ]
        columns, rows = [x for x, _ in seen], [y for _, y in seen]
        assert product.box_xyxy == (min(columns), min(rows), max(columns) + 1, max(rows) + 1)
        assert sorted((x, y) for y, x in np.argwhere(product.mask).tolist()) == sorted(seen)


def test_the_visible_share_is_what_later_products_leave() -> None:
    settings = replace(PLAIN, min_scale=0.6, max_scale=0.6, max_occlusion=0.9)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        squares = [plain_cutout(number, 50, 50) for number in range(2)]
        below, above = paste(np.zeros((100, 100, 3), np.uint8), squares, settings, rng).products
        assert above.visible == 1
        assert below.visible == pytest.approx(below.mask.sum() / 60**2)
        if below.visible < 1:
            return
    pytest.fail("no two of twenty pairs overlap")


@pytest.mark.parametrize("max_occlusion", [0.0, 0.2, 0.5])
def test_no_product_is_hidden_by_more_than_the_limit(max_occlusion: float) -> None:
    settings = replace(PLAIN, max_occlusion=max_occlusion)
    hidden = [
        1 - product.visible
        for seed in range(40)
        for product in plain_scene(seed, settings).products
    ]
    assert max(hidden) <= max_occlusion + 1e-9
    assert max_occlusion == 0 or max(hidden) > max_occlusion / 2  # it is made use of


def test_a_product_that_finds_no_place_is_dropped_and_counted() -> None:
    settings = replace(PLAIN, min_scale=1, max_scale=1, max_occlusion=0)
    squares = [plain_cutout(number, 50, 50) for number in range(3)]
    scene = paste(np.zeros((80, 80, 3), np.uint8), squares, settings, np.random.default_rng(0))
    assert [product.source for product in scene.products] == [0]  # it fills the whole frame
    assert scene.num_dropped == 2


def test_soft_edges_show_nothing_of_the_old_backdrop() -> None:
    cutout = np.full((60, 60, 4), (255, 255, 255, 0), np.uint8)
    cutout[10:50, 10:50] = (120, 0, 0, 255)
    settings = replace(PLAIN, edge_softness_px=1.5, max_rotation_deg=15)
    black = np.zeros((100, 100, 3), np.uint8)
    for seed in range(5):
        scene = paste(black, [cutout], settings, np.random.default_rng(seed))
        assert scene.photo[..., 0].max() == 120
        levels = np.unique(scene.photo[..., 0])
        assert len(levels) > 4  # the edge fades
        assert scene.photo[..., 1:].max() < 40  # white would show in green and blue


def test_a_mirrored_product_has_its_left_on_the_right() -> None:
    cutout = np.full((40, 40, 4), (255, 0, 0, 255), np.uint8)
    cutout[:, 20:, :3] = (0, 0, 255)
    black = np.zeros((100, 100, 3), np.uint8)
    for flipped in (False, True):
        settings = replace(PLAIN, flip_probability=float(flipped))
        scene = paste(black, [cutout], settings, np.random.default_rng(1))
        left, top, right, _ = scene.products[0].box_xyxy
        ends = scene.photo[top + 2, [left + 2, right - 3]]
        reds = [bool(end[0] > end[2]) for end in ends]
        assert reds == ([False, True] if flipped else [True, False])


def test_brightness_and_shadow_stay_within_their_limits() -> None:
    settings = replace(PLAIN, max_brightness_change=0.2, max_shadow=0.4)
    gray = np.full((60, 60, 4), (100, 100, 100, 255), np.uint8)
    ground = np.full((200, 200, 3), 200, np.uint8)
    products, shadows = set(), set()
    for seed in range(20):
        scene = paste(ground, [gray], settings, np.random.default_rng(seed))
        mask = scene.products[0].mask
        products |= set(scene.photo[mask].ravel().tolist())
        shadows.add(int(scene.photo[~mask].min()))
    assert 80 <= min(products) < max(products) <= 120
    assert 200 * 0.6 <= min(shadows) < max(shadows) <= 200


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**81 - 1))
def test_run_lengths_equal_those_of_pycocotools(height: int, width: int, bits: int) -> None:
    mask = np.array([bits >> k & 1 for k in range(height * width)], bool).reshape(height, width)
    assert encode_runs(mask) == coco_runs(mask)


def test_long_runs_equal_those_of_pycocotools() -> None:
    mask = np.zeros((500, 700), bool)
    mask[37:430, 100:620] = True
    mask[200:210, 300:305] = False
    assert encode_runs(mask) == coco_runs(mask)


def coco_runs(mask: Bool[np.ndarray, "H W"]) -> str:
    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return str(encoded["counts"].decode())


def test_drawn_backgrounds_differ_and_fill_the_scene() -> None:
    drawn = [draw_background(96, 64, np.random.default_rng(seed)) for seed in range(30)]
    assert {image.shape for image in drawn} == {(64, 96, 3)}
    assert len({image.tobytes() for image in drawn}) == 30
    assert np.median([image.std() for image in drawn]) > 8
