"""Compare the arrangement of colors of a box and of a gallery photo, where their points agree.

Sisters share most of their printing, and light changes all colors of a photo alike. What is left is
where a pack is more red or more blue than elsewhere. So the colors of the gallery photo are laid
over the query photo as shared points lie, and their correlation is measured (ours). Sums are in a
fixed order, so the number of threads changes nothing.
"""

from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Bool, Complex128, Float32, Float64, UInt8

from product1m.data.points import Points

MIN_PIXELS = 20
"""With fewer pixels of the item's small copy inside the box, nothing is compared (ours)."""
NOISE = 9.0
"""Variance of a and b together that counts as noise: pale packs agree less by it (ours)."""


def pattern_agreement(
    box: Points,
    item: Points,
    box_xy: Float32[np.ndarray, "n 2"],
    item_xy: Float32[np.ndarray, "n 2"],
) -> float:
    """Correlation of the colors of a box and a gallery photo, -1 to 1; 0 if not comparable.

    Args:
        box: points of the box.
        item: points of the gallery photo.
        box_xy: shared points, in pixels of the query photo.
        item_xy: the same points, in pixels of the gallery photo.
    """
    if box.chroma is None or item.chroma is None:
        return 0.0
    height, width = item.chroma.shape[:2]
    places = _moved(_pixel_places(height, width, item.size_px), item_xy, box_xy)
    inside = _inside(places, box)
    if np.count_nonzero(inside) < MIN_PIXELS:
        return 0.0
    height, width = box.chroma.shape[:2]
    kept = places[inside]
    across, down = (
        (side * (pixels / length) - 0.5).astype(np.float32)[None]
        for side, pixels, length in zip(
            (kept.real, kept.imag), (width, height), box.size_px, strict=True
        )
    )
    seen = cv2.remap(box.chroma, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0]
    return _correlation(seen, item.chroma.reshape(-1, 2)[inside])


@lru_cache(64)
def _pixel_places(
    height: int, width: int, size_px: tuple[int, int]
) -> Complex128[np.ndarray, " m"]:
    """Centers x + iy of the pixels of a photo's small copy, in pixels of the photo."""
    across = (np.arange(width) + 0.5) * size_px[0] / width
    down = (np.arange(height) + 0.5) * size_px[1] / height
    places: Complex128[np.ndarray, " m"] = (across + 1j * down[:, None]).reshape(-1)
    places.setflags(write=False)  # shared by all callers
    return places


def _moved(
    places: Complex128[np.ndarray, " m"],
    source_xy: Float32[np.ndarray, "n 2"],
    target_xy: Float32[np.ndarray, "n 2"],
) -> Complex128[np.ndarray, " m"]:
    """Places under the rotation, scale and shift that fit the pairs of points best.

    (least squares; Umeyama, TPAMI 1991)
    """
    source, target = _complex(source_xy.astype(np.float64)), _complex(target_xy.astype(np.float64))
    from_center, to_center = source - source.mean(), target - target.mean()
    spread = max(float((np.abs(from_center) ** 2).sum()), 1e-12)
    turn = (from_center.conj() * to_center).sum() / spread
    return np.asarray(target.mean() + turn * (places - source.mean()))


def _complex(places: Float64[np.ndarray, "n 2"]) -> np.ndarray:
    return np.asarray(places[:, 0] + 1j * places[:, 1])


def _inside(places: Complex128[np.ndarray, " m"], box: Points) -> Bool[np.ndarray, " m"]:
    left, top, right, bottom = (
        (0, 0, *box.size_px) if box.area_xyxy is None else box.area_xyxy.tolist()
    )
    across, down = places.real, places.imag
    return np.asarray((across >= left) & (across < right) & (down >= top) & (down < bottom))


def _correlation(first: UInt8[np.ndarray, "n 2"], second: UInt8[np.ndarray, "n 2"]) -> float:
    """Of both colors together, each around its own mean."""
    first_centered, second_centered = (
        values - np.array(cv2.sumElems(values[:, None])[:2]) / len(values)
        for values in (first, second)
    )
    noise = NOISE * len(first)
    scale = ((first_centered**2).sum() + noise) * ((second_centered**2).sum() + noise)
    return float((first_centered * second_centered).sum() / np.sqrt(scale))
