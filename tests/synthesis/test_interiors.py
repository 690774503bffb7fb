"""Drawn rooms: what a detector learns that is no product."""

import numpy as np

from product1m.synthesis.interiors import draw_interior


def test_interiors_have_the_size_asked_for_and_depend_on_their_generator_alone() -> None:
    for seed, size in enumerate([(96, 96), (128, 96), (60, 90), (33, 17)] * 3):
        photo = draw_interior(*size, np.random.default_rng(seed))
        assert photo.dtype == np.uint8
        assert photo.shape == (size[1], size[0], 3)
        np.testing.assert_array_equal(photo, draw_interior(*size, np.random.default_rng(seed)))


def test_interiors_differ_in_light_color_and_detail() -> None:
    photos = [draw_interior(96, 96, np.random.default_rng(seed)) for seed in range(30)]
    brightness = [photo.mean() for photo in photos]
    edges = [np.abs(np.diff(photo.astype(float), axis=1)).mean() for photo in photos]
    assert np.ptp(brightness) > 80
    assert min(edges) < 1, "some show a bare surface"
    assert max(edges) > 6, "some are full of furniture"
