"""Jittered scenes: what changes, by how much, and what stays."""

import numpy as np
import pytest

from product1m.detection.jitter import jitter_colors, jitter_photo, view_factors

STRENGTH = 0.2


@pytest.fixture
def photo() -> np.ndarray:
    photo = np.full((4, 4, 3), 100, np.uint8)
    photo[:2] = 140
    return photo


def test_brightness_and_contrast_change_within_the_strength_and_apart(photo: np.ndarray) -> None:
    changed = [
        jitter_colors(photo, STRENGTH, np.random.default_rng(seed)).astype(float)
        for seed in range(200)
    ]
    # The mean of 120 moves with the brightness; the step of 40 with brightness and contrast.
    brightness = np.array([photo.mean() for photo in changed]) / 120
    contrast = np.array([photo[0, 0, 0] - photo[3, 0, 0] for photo in changed]) / 40 / brightness
    for factors in (brightness, contrast):
        assert 1 - STRENGTH - 0.03 < factors.min() < 1 - 0.8 * STRENGTH
        assert 1 + 0.8 * STRENGTH < factors.max() < 1 + STRENGTH + 0.03
        assert factors.mean() == pytest.approx(1, abs=0.03)
    assert abs(np.corrcoef(brightness, contrast)[0, 1]) < 0.2


def test_colors_keep_their_order_and_their_range(photo: np.ndarray) -> None:
    photo[0, 0] = (0, 128, 255)
    for seed in range(20):
        changed = jitter_colors(photo, STRENGTH, np.random.default_rng(seed))
        assert changed.dtype == np.uint8
        assert changed[0, 0, 0] <= changed[3, 0, 0] <= changed[0, 1, 0] <= changed[0, 0, 2]


def test_without_jitter_a_photo_stays_as_it_is(photo: np.ndarray) -> None:
    assert jitter_colors(photo, 0.0, np.random.default_rng(0)) is photo


def test_views_are_spread_evenly_over_the_jitter() -> None:
    assert view_factors(1, 0.5) == [1]
    assert view_factors(2, 0.5) == [0.75, 1.25]
    assert view_factors(0, 0.5) == []


def test_a_camera_changes_light_and_sharpness_but_not_what_is_where(photo: np.ndarray) -> None:
    """The share of photos, their size, and where they are bright."""
    height, width = 96, 64
    scene = np.full((height, width, 3), 60, np.uint8)
    scene[20:60, 10:40] = 200
    seen = [jitter_photo(scene, 0, 0.5, np.random.default_rng(seed)) for seed in range(60)]
    changed = [view for view in seen if view is not scene]
    assert 18 <= len(changed) <= 42
    for view in changed:
        assert view.shape == scene.shape
        inside, outside = view[25:55, 15:35].mean(), view[66:, 45:].mean()
        assert inside > 1.5 * outside
    brightness = [view.mean() for view in changed]
    assert max(brightness) > 1.4 * min(brightness)
    assert jitter_photo(photo, 0, 0, np.random.default_rng(0)) is photo
