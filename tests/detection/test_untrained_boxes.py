"""Boxes without a network."""

import numpy as np

from product1m.detection.untrained_boxes import usual_places


def test_usual_places_are_relative_and_cover_most_products_first() -> None:
    left, right = [0, 0, 50, 100], [100, 0, 200, 100]
    scenes = [
        np.array([left, [102, 0, 200, 100]], np.float32),
        np.array([right], np.float32),
        np.empty((0, 4), np.float32),
        np.array([[200, 0, 400, 200]], np.float32),  # the right half of a scene twice as large
    ]
    sizes = np.array([[200, 100], [200, 100], [200, 100], [400, 200]])
    places = usual_places(scenes, sizes, 2)
    np.testing.assert_allclose(places, [[0.5, 0, 1, 1], [0, 0, 0.25, 1]])
    assert len(usual_places(scenes, sizes, 100)) == 4
