"""Pictures for reviewers: scenes with their boxes, accepted and rejected cut-outs."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from product1m.data.geometry import CORNERS
from product1m.data.photos import Photo, decode_photo, resize_photo
from product1m.synthesis.compose import ComposedScene
from product1m.synthesis.cutouts import CutAttempt, read_cutout
from product1m.synthesis.grabcut import Mask, soft_mask

_COLORS = ((230, 60, 60), (40, 150, 60), (50, 90, 230), (220, 150, 0), (170, 50, 190))
_TILE_PX = 200
_BAND_PX = 22


def draw_scene(scene: ComposedScene) -> Photo:
    """The scene with its products' visible boxes and its number."""
    photo = decode_photo(scene.encoded, scene.id).copy()
    scale = max(1, round(min(photo.shape[:2]) / 300))
    for number, product in enumerate(scene.instances):
        corners = [round(product[name]) for name in CORNERS]
        color = _COLORS[number % len(_COLORS)]
        cv2.rectangle(photo, corners[:2], (corners[2] - 1, corners[3] - 1), color, scale + 1)
    return _labeled(photo, f"{scene.plan.number} {scene.plan.split}")


def draw_cutout(attempt: CutAttempt) -> Photo:
    """An accepted cut-out on a checkerboard."""
    cutout = read_cutout(attempt.path)
    height, width = cutout.shape[:2]
    squares = (np.indices((height, width)) // 12).sum(axis=0) % 2
    board = (190 + 50 * squares)[..., None]
    alpha = cutout[..., 3:] / 255
    photo = (cutout[..., :3] * alpha + board * (1 - alpha)).astype(np.uint8)
    return _labeled(photo, "accepted")


def draw_rejected(photo: Photo, mask: Mask, reason: str) -> Photo:
    """A photo whose cut-out was rejected, with the reason; red marks what is outside the mask."""
    outside = 1 - soft_mask(mask, photo.shape[1], photo.shape[0])[..., None]
    tint = np.array([210, 40, 60], np.float32)
    tinted = photo * (1 - 0.65 * outside) + tint * 0.65 * outside
    return _labeled(tinted.astype(np.uint8), f"rejected: {reason}")


def write_grid(tiles: Sequence[Photo], path: Path, columns: int) -> None:
    """Write pictures of equal size as one picture, row by row; no file if there are none."""
    if not tiles:
        return
    blank = np.full_like(tiles[0], 255)
    padded = [*tiles, *[blank] * (-len(tiles) % columns)]
    rows = [np.hstack(padded[start : start + columns]) for start in range(0, len(padded), columns)]
    _, encoded = cv2.imencode(path.suffix, cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))
    path.write_bytes(encoded.tobytes())  # unlike imwrite, it raises an error with the reason


def _labeled(photo: Photo, text: str) -> UInt8[np.ndarray, "H W 3"]:
    tile = np.full((_TILE_PX + _BAND_PX, _TILE_PX, 3), 255, np.uint8)
    small = resize_photo(photo, (_TILE_PX - 4) / max(photo.shape[:2]))
    top, left = ((_TILE_PX - small.shape[axis]) // 2 for axis in (0, 1))
    tile[top : top + small.shape[0], left : left + small.shape[1]] = small
    corner = (4, _TILE_PX + _BAND_PX - 7)
    cv2.putText(tile, text, corner, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (20, 20, 20), 1, cv2.LINE_AA)
    return tile
