"""Cutting products out of their photos: on drawn photos with known outlines, and on real ones."""

import json
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from jaxtyping import Bool

from product1m.config import load_config
from product1m.data.photos import Photo, decode_photo, encode_jpeg
from product1m.synthesis.backdrop import find_backdrop, level_backdrop
from product1m.synthesis.cutouts import CutoutSettings, cut
from product1m.synthesis.grabcut import bounds, cut_out, largest_part, soft_mask, without_threads

SETTINGS = CutoutSettings.from_config(load_config("sample").background_synthesis)
SHARED = os.environ.get("PRODUCT1M_SHARED_DATA")

Mask = Bool[np.ndarray, "H W"]


def draw(
    backdrop: Photo, *boxes_xyxy: tuple[int, int, int, int], quality: int = 85
) -> tuple[Photo, Mask]:
    """Striped packs on a backdrop, through JPEG, and where they are."""
    photo, truth = backdrop.copy(), np.zeros(backdrop.shape[:2], bool)
    for left, top, right, bottom in boxes_xyxy:
        photo[top:bottom, left:right] = (170, 30, 60)
        photo[top:bottom:3, left:right] = (30, 60, 150)
        truth[top:bottom, left:right] = True
    return decode_photo(encode_jpeg(photo, quality), "drawn"), truth


def white(height: int = 240, width: int = 240) -> Photo:
    return np.full((height, width, 3), 255, np.uint8)


def vignette(height: int = 240, width: int = 240) -> Photo:
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    light = 230 - 60 * (x * x + y * y)
    return np.repeat(light[..., None], 3, axis=2).astype(np.uint8)


def iou(found: Mask, truth: Mask) -> float:
    grown = soft_mask(found, truth.shape[1], truth.shape[0]) >= 0.5
    return float((grown & truth).sum() / (grown | truth).sum())


def test_a_pack_on_white_is_cut_out_along_its_outline() -> None:
    photo, truth = draw(white(), (70, 40, 150, 210))
    mask, reason = cut(photo, SETTINGS)
    assert reason == ""
    assert iou(mask, truth) > 0.95


def test_dither_keeps_the_halo_of_a_jpeg_out_of_the_mask() -> None:
    photo, truth = draw(white(480, 480), (150, 100, 330, 420), quality=55)
    plain, _ = cut(photo, replace(SETTINGS, grabcut=replace(SETTINGS.grabcut, dither=0)))
    dithered, _ = cut(photo, SETTINGS)
    assert iou(dithered, truth) > 0.95
    assert iou(plain, truth) < iou(dithered, truth)


def test_the_bright_middle_of_a_vignette_is_no_product() -> None:
    photo, truth = draw(vignette(), (130, 90, 190, 220))
    mask, reason = cut(photo, SETTINGS)
    assert reason == ""
    assert iou(mask, truth) > 0.9


def test_a_leveled_backdrop_has_one_color() -> None:
    photo, truth = draw(vignette(), (130, 90, 190, 220))
    apart = ~cv2.dilate(truth.astype(np.uint8), np.ones((15, 15), np.uint8)).astype(bool)
    assert photo[apart].std() > 15
    assert level_backdrop(photo)[apart].std() < 3


def test_a_flat_backdrop_is_left_as_it_is() -> None:
    photo, _ = draw(white(), (70, 40, 150, 210))
    assert level_backdrop(photo) is photo


def test_the_backdrop_ends_at_the_product() -> None:
    photo, truth = draw(white(), (70, 40, 150, 210))
    found = find_backdrop(photo)
    assert found[~truth].mean() > 0.9
    assert found[truth].mean() < 0.05


def test_a_photo_in_a_frame_is_looked_at_inside_its_frame() -> None:
    backdrop = white()
    cv2.rectangle(backdrop, (0, 0), (239, 239), (200, 30, 30), 6)
    photo, truth = draw(backdrop, (80, 50, 150, 200))
    mask, reason = cut(photo, SETTINGS)
    assert reason == ""
    assert iou(mask, truth) > 0.9


@pytest.mark.parametrize(
    ("boxes", "reason"),
    [
        ([(20, 60, 90, 180), (140, 60, 210, 180)], "fragmented"),
        ([(100, 100, 125, 125)], "too_small"),
        ([(40, 60, 200, 240)], "cut_off"),
        ([], "too_small"),
    ],
    ids=["two packs", "a speck", "beyond the photo's edge", "nothing"],
)
def test_an_implausible_mask_is_rejected_with_its_reason(
    boxes: list[tuple[int, int, int, int]], reason: str
) -> None:
    photo, _ = draw(white(), *boxes)
    assert cut(photo, SETTINGS)[1] == reason


def test_an_outline_without_an_edge_in_the_photo_is_rejected() -> None:
    y, x = np.mgrid[:240, :240]
    glow = 150 + 60 * np.exp(-((x - 120) ** 2 + (y - 110) ** 2) / (2 * 30**2))
    photo = np.repeat(glow[..., None], 3, axis=2).astype(np.uint8)
    assert cut(photo, SETTINGS)[1] == "faint_edge"


def test_a_badge_in_the_corner_is_not_a_second_product() -> None:
    backdrop = white()
    cv2.circle(backdrop, (205, 30), 18, (220, 40, 40), -1)
    photo, truth = draw(backdrop, (60, 40, 150, 210))
    mask, reason = cut(photo, SETTINGS)
    assert reason == ""
    assert iou(mask, truth) > 0.9


def test_the_same_photo_gives_the_same_mask_whatever_was_cut_before() -> None:
    photo, _ = draw(vignette(), (130, 90, 190, 220))
    first, _ = cut(photo, SETTINGS)
    cut(draw(white(), (20, 20, 90, 200))[0], SETTINGS)
    again, _ = cut(photo, SETTINGS)
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (200, 7), (11, 11)])
def test_a_photo_too_narrow_for_grabcut_is_rejected_not_an_error(shape: tuple[int, int]) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    assert cut(photo, SETTINGS)[1] == "too_small"


def test_the_largest_part_is_found_as_by_counting_pixels() -> None:
    mask = np.array(
        [[1, 1, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 1, 0, 0], [1, 0, 0, 1, 1]], np.uint8
    ).astype(bool)
    expected = np.zeros_like(mask)
    for row, column in ((1, 3), (2, 2), (3, 3), (3, 4)):  # touching corners count as one part
        expected[row, column] = True
    np.testing.assert_array_equal(largest_part(mask), expected)


@pytest.mark.parametrize("side", [64, 100, 128, 160, 256])
def test_a_horizon_line_is_no_part_of_the_product(side: int) -> None:
    mask = np.zeros((side, side), bool)
    mask[side // 3 : side - 10, 20 : side // 2] = True
    pack = mask.copy()
    mask[side // 2 : side // 2 + 2] = True
    np.testing.assert_array_equal(without_threads(mask), pack)


def test_a_thin_product_is_not_taken_for_a_thread() -> None:
    mask = np.zeros((100, 100), bool)
    mask[10:90, 50:52] = True
    np.testing.assert_array_equal(without_threads(mask), mask)


def test_a_cutout_is_cropped_to_its_mask_and_keeps_its_color() -> None:
    photo, truth = draw(white(), (70, 40, 150, 200), quality=100)
    cutout = cut_out(photo, truth, max_side_px=1000)
    margin = 2  # color beyond the outline
    np.testing.assert_array_equal(cutout[..., :3], photo[38:202, 68:152])
    assert bounds(cutout[..., 3] >= 128) == (margin, margin, margin + 80, margin + 160)
    assert cut_out(photo, truth, max_side_px=82).shape[:2] == (82, 42)


@pytest.mark.skipif(not SHARED, reason="PRODUCT1M_SHARED_DATA names no folder of real photos")
def test_real_packs_are_cut_out_at_the_sample_presets_resolution() -> None:
    folder = Path(SHARED or "") / "snacks"
    rows = [json.loads(line) for line in (folder / "products.jsonl").open(encoding="utf-8")]
    scores, accepted = [], []
    for row in rows:
        photo = decode_photo((folder / row["image"]).read_bytes(), row["image"])
        truth = cv2.imread(str(folder / row["mask"]), cv2.IMREAD_GRAYSCALE)
        mask, reason = cut(photo, SETTINGS)
        scores.append(iou(mask, np.asarray(truth) > 127))
        accepted.append(not reason)
    assert len(scores) == 83
    assert np.mean(scores) >= 0.96
    assert min(scores) >= 0.5
    assert np.mean(accepted) >= 0.9
