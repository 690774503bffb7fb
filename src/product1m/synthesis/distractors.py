"""Things in a scene that are not products: pieces of other photos, and banners with text (ours).

They have the same edges and shadows as pasted products, so a detector that is trained on scenes
cannot recognize products by these.
"""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from jaxtyping import UInt8

from product1m.data.photos import Photo
from product1m.synthesis.backgrounds import draw_background
from product1m.synthesis.paste import PasteSettings, Rgba, paste

_BANNER_SHARE, _DRAWN_SHARE = 0.15, 0.15
"""Shares of banners and of pieces of drawn surfaces; all other distractors are pieces of photos."""
_PIECE = (0.12, 0.7)
"""Sides of a piece, relative to its photo's."""
_SCALE = (0.15, 0.8)
"""Longer side of a distractor, relative to the scene's shorter side."""
_MAX_ROTATION_DEG = 30.0
_MAX_OCCLUSION = 0.9
"""Largest share of a distractor that others may cover."""
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 %-"


def with_distractors(
    background: Photo,
    donor: Photo | None,
    number: int,
    settings: PasteSettings,
    rng: np.random.Generator,
) -> Photo:
    """A background with some distractors on it.

    Args:
        background: the photo on which they are pasted.
        donor: a photo without products whose pieces are pasted; if None, drawn surfaces are used.
        number: number of distractors.
        settings: settings of products, for light, shadows and edges.
        rng: draws the distractors.
    """
    pieces = [draw_distractor(donor, background.shape[0], rng) for _ in range(number)]
    look = replace(
        settings,
        min_scale=_SCALE[0],
        max_scale=_SCALE[1],
        max_rotation_deg=_MAX_ROTATION_DEG,
        max_occlusion=_MAX_OCCLUSION,
    )
    return paste(background, pieces, look, rng).photo


def draw_distractor(donor: Photo | None, side_px: int, rng: np.random.Generator) -> Rgba:
    """One distractor, up to about `side_px` long."""
    kind = rng.random()
    if kind < _BANNER_SHARE:
        return _banner(side_px, rng)
    if donor is None or kind < _BANNER_SHARE + _DRAWN_SHARE:
        width, height = (max(32, int(rng.uniform(0.1, 0.5) * side_px)) for _ in range(2))
        return _shaped(draw_background(width, height, rng), rng)
    height, width = (max(8, int(rng.uniform(*_PIECE) * side)) for side in donor.shape[:2])
    top, left = (
        int(rng.integers(side - part + 1))
        for side, part in zip(donor.shape[:2], (height, width), strict=True)
    )
    return _shaped(donor[top : top + height, left : left + width], rng)


def _shaped(piece: Photo, rng: np.random.Generator) -> Rgba:
    """A rectangle, ellipse, polygon or irregular part of a photo."""
    height, width = piece.shape[:2]
    mask = np.zeros((height, width), np.uint8)
    kind = rng.random()
    if kind < 0.3:
        mask[:] = 255
    elif kind < 0.5:
        center, axes = (width // 2, height // 2), (max(1, width // 2), max(1, height // 2))
        cv2.ellipse(mask, center, axes, 0, 0, 360, 255, -1)
    elif kind < 0.7:
        corners = rng.uniform(0, 1, (int(rng.integers(3, 7)), 2)) * [width, height]
        cv2.fillConvexPoly(mask, cv2.convexHull(corners.astype(np.int32)), 255)
    else:
        mask[_blob(height, width, rng)] = 255
    return np.dstack([piece, mask])


def _blob(height: int, width: int, rng: np.random.Generator) -> UInt8[np.ndarray, "h w"]:
    rough = cv2.resize(
        rng.standard_normal((4, 4)).astype(np.float32),
        (width, height),
        interpolation=cv2.INTER_CUBIC,
    )
    y = np.linspace(-1, 1, height)[:, None]
    x = np.linspace(-1, 1, width)
    return np.asarray(0.5 * rough + 1 > 1.6 * (x * x + y * y))


def _banner(side_px: int, rng: np.random.Generator) -> Rgba:
    height, width = int(rng.uniform(0.05, 0.2) * side_px), int(rng.uniform(0.2, 1) * side_px)
    banner = np.full((height, width, 3), rng.integers(0, 256, 3), np.uint8)
    words = "".join(rng.choice(list(_LETTERS), int(rng.integers(3, 14))))
    _write(banner, words, [int(level) for level in rng.integers(0, 256, 3)], int(rng.integers(5)))
    return np.dstack([banner, np.full((height, width), 255, np.uint8)])


def _write(banner: Photo, words: str, color: Sequence[int], font: int) -> None:
    height = banner.shape[0]
    place, thickness = (4, int(0.7 * height)), max(1, height // 25)
    cv2.putText(banner, words, place, font, height / 45, color, thickness, cv2.LINE_AA)
