"""Packs with fine print, as local features see them, and the same packs photographed again."""

import cv2
import numpy as np

from product1m.data.photos import Photo


def printed_pack(seed: int, side_px: int = 200) -> Photo:
    """A pack with print that no other seed gives."""
    generator = np.random.default_rng(seed)
    pack = np.full((side_px, side_px, 3), 200, np.uint8)
    for _ in range(60):
        color = generator.integers(0, 255, 3).tolist()
        corner = generator.integers(0, side_px - 20, 2)
        other = corner + generator.integers(4, 30, 2)
        cv2.rectangle(pack, corner.tolist(), other.tolist(), color, -1)
    return pack


def placed(pack: Photo, turn: float, scale: float, shift_xy: tuple[float, float]) -> np.ndarray:
    """The affine map (2 x 3) that turns a pack by degrees, scales it and moves its center."""
    middle = pack.shape[1] / 2, pack.shape[0] / 2
    matrix = cv2.getRotationMatrix2D(middle, turn, scale)
    matrix[:, 2] += np.array(shift_xy) - middle
    return matrix


def scene_of(packs: list[tuple[Photo, np.ndarray]], side_px: int = 400) -> Photo:
    """A photo with packs where their maps put them."""
    scene = np.full((side_px, side_px, 3), 120, np.uint8)
    for pack, matrix in packs:
        warped = cv2.warpAffine(pack, matrix, (side_px, side_px))
        mask = cv2.warpAffine(np.full(pack.shape[:2], 255, np.uint8), matrix, (side_px, side_px))
        scene[mask > 127] = warped[mask > 127]
    return scene
