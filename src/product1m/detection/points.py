"""Find the points of a photo with SIFT, which tolerates rotation, other light and some tilt.

(Lowe, IJCV 2004; square roots of the descriptors: Arandjelović and Zisserman, CVPR 2012)
"""

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from product1m.config import FeatureExtractionConfig
from product1m.data.photos import Photo, resize_photo
from product1m.data.points import NO_POINTS, Points
from product1m.data.regions import Regions

POINT_PARTS = ("gallery", "queries")
"""Parts of the data with points."""
MIN_CONTRAST = 0.02
"""Half of OpenCV's default, because products in a room are small and dim (ours)."""
COLOR_SIDE_PX = 5
"""Side of the square around a point whose mean color it has (ours)."""
GALLERY_CHROMA_SIDE_PX, QUERY_CHROMA_SIDE_PX = 48, 128
"""Longer side of the small copy of a photo's colors; a product is a part of a query (ours)."""
LENGTH = 512
"""Length of a stored descriptor, for which products of its bytes add up exactly in float32."""


@dataclass(frozen=True)
class PointFinder:
    """Finds the strongest points of photos; the result does not depend on the number of threads."""

    max_points: int
    max_side_px: int
    """A larger photo is reduced to this longer side first; 0 for none."""
    chroma_side_px: int = QUERY_CHROMA_SIDE_PX
    """Longer side of the small copy of the photo's colors."""

    @classmethod
    def from_config(
        cls, config: FeatureExtractionConfig, part: str = "queries"
    ) -> "PointFinder | None":
        """The finder for a part of the data; None if the part has no points.

        A gallery photo shows one product, so it needs fewer points.
        """
        if not config.gallery_points or part not in POINT_PARTS:
            return None
        if part == "gallery":
            side_px = config.gallery_points_side_px
            return cls(config.gallery_points, side_px, GALLERY_CHROMA_SIDE_PX)
        return cls(config.query_points, config.query_points_side_px)

    def find(self, photo: Photo) -> Points:
        """The strongest points, ordered by position, then by descriptor."""
        # OpenCV's waiting threads use a whole core; callers process several photos at once instead.
        cv2.setNumThreads(1)
        longer = max(photo.shape[:2])
        scale = min(1.0, (self.max_side_px or longer) / longer)
        sized = resize_photo(photo, scale) if scale < 1 else photo
        size_px = (photo.shape[1], photo.shape[0])
        sift: Any = cv2.SIFT.create(nfeatures=self.max_points, contrastThreshold=MIN_CONTRAST)
        keypoints, raw = sift.detectAndCompute(cv2.cvtColor(sized, cv2.COLOR_RGB2GRAY), None)
        if not keypoints:
            return replace(NO_POINTS, size_px=size_px)
        places = np.array([point.pt for point in keypoints], np.float32)
        colors = _colors(sized, places)
        places = places * np.float32(1 / scale)
        strengths = np.array([point.response for point in keypoints], np.float32)
        descriptors = _rooted(raw)
        by_place = (*descriptors.T[7::-1], places[:, 1], places[:, 0])
        # OpenCV returns more points than asked for if some are equally strong.
        strongest = np.lexsort((*by_place, -strengths))[: self.max_points]
        rows = strongest[np.lexsort([key[strongest] for key in by_place])]
        chroma = _chroma(sized, self.chroma_side_px)
        return Points(places[rows], descriptors[rows], size_px, colors[rows], chroma)

    def with_points(self, photo: Photo, regions: Regions) -> Regions:
        """The regions of a photo with its points."""
        return replace(regions, points=self.find(photo))


def _colors(photo: Photo, places_xy: Float32[np.ndarray, "P 2"]) -> UInt8[np.ndarray, "P 2"]:
    """Values a and b of CIELAB around places of a photo, plus 128."""
    smooth = cv2.blur(_lab_colors(photo), (COLOR_SIDE_PX, COLOR_SIDE_PX))
    columns, rows = np.rint(places_xy).astype(np.int64).T
    height, width = photo.shape[:2]
    return np.asarray(smooth[np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)])


def _chroma(photo: Photo, side_px: int) -> UInt8[np.ndarray, "h w 2"]:
    """The values a and b of a small copy of a photo."""
    small = resize_photo(photo, min(1.0, side_px / max(photo.shape[:2])))
    return np.ascontiguousarray(_lab_colors(small))


def _lab_colors(photo: Photo) -> UInt8[np.ndarray, "h w 2"]:
    """Values a and b of CIELAB, plus 128."""
    return np.asarray(cv2.cvtColor(photo, cv2.COLOR_RGB2LAB)[:, :, 1:])


def _rooted(descriptors: Float32[np.ndarray, "P 128"]) -> UInt8[np.ndarray, "P 128"]:
    """Square roots of the shares of a descriptor's sum, rounded to bytes."""
    shares = descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1)
    return np.asarray(np.minimum(np.rint(LENGTH * np.sqrt(shares)), 255), np.uint8)
