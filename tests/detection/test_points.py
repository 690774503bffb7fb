"""Which points of a photo are found."""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from product1m.config import FeatureExtractionConfig
from product1m.detection.points import PointFinder
from tests.support.worlds.printed_packs import printed_pack


def test_points_are_the_strongest_ones_in_a_fixed_order() -> None:
    photo = printed_pack(0)
    every, few = PointFinder(10_000, 0).find(photo), PointFinder(50, 0).find(photo)
    assert len(every) > 60
    assert len(few) == 50
    order = [tuple(row) for row in np.c_[few.points_xy, few.descriptors].tolist()]
    assert order == sorted(order)
    assert {tuple(place) for place in few.points_xy.tolist()} <= {
        tuple(place) for place in every.points_xy.tolist()
    }
    assert few.size_px == (200, 200)


def test_no_more_points_than_asked_for_where_many_are_equally_strong() -> None:
    tile = printed_pack(1, 40)
    photo = np.tile(tile, (8, 8, 1))
    assert len(PointFinder(100, 0).find(photo)) == 100


def test_a_reduced_photo_has_its_points_in_the_pixels_of_the_whole_one() -> None:
    small = printed_pack(2)
    large = cv2.resize(small, (600, 600), interpolation=cv2.INTER_CUBIC)
    whole, reduced = PointFinder(200, 0).find(small), PointFinder(200, 200).find(large)
    assert reduced.size_px == (600, 600)
    distances = np.linalg.norm(reduced.points_xy[:, None] - 3 * whole.points_xy, axis=2)
    assert np.median(distances.min(axis=0)) < 4


def test_a_point_has_the_color_around_it() -> None:
    printed = printed_pack(0)
    reddish = np.clip(printed * np.array([1.0, 0.4, 0.4]), 0, 255).astype(np.uint8)
    for photo in (printed, reddish):
        points = PointFinder(50, 0).find(photo)
        assert points.colors is not None
        for (x, y), color in zip(np.rint(points.points_xy).astype(int), points.colors, strict=True):
            around = photo[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3].astype(np.float32) / 255
            expected = cv2.cvtColor(around, cv2.COLOR_RGB2LAB)[..., 1:].mean(axis=(0, 1)) + 128
            if around.shape[:2] == (5, 5):
                np.testing.assert_allclose(color, expected, atol=2)


def test_threads_change_nothing() -> None:
    photos, finder = [printed_pack(seed) for seed in range(4)], PointFinder(100, 0)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(finder.find, photos * 2))
    for photo, found in zip(photos * 2, together, strict=True):
        alone = finder.find(photo)
        np.testing.assert_array_equal(found.points_xy, alone.points_xy)
        np.testing.assert_array_equal(found.descriptors, alone.descriptors)


def test_a_photo_without_anything_on_it_has_no_points() -> None:
    assert len(PointFinder(100, 0).find(np.full((50, 80, 3), 130, np.uint8))) == 0


def test_training_photos_have_no_points_and_a_setting_switches_them_off() -> None:
    config = FeatureExtractionConfig()
    gallery, queries = (PointFinder.from_config(config, part) for part in ("gallery", "queries"))
    assert gallery is not None
    assert queries is not None
    assert gallery.max_points < queries.max_points
    assert PointFinder.from_config(config, "train") is None
    off = FeatureExtractionConfig(gallery_points=0)
    assert PointFinder.from_config(off, "gallery") is None
    assert PointFinder.from_config(off, "queries") is None
