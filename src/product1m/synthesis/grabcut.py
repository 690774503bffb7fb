"""Cut a product out of its photo with GrabCut at reduced resolution, and measure the result."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from product1m.config import BackgroundSynthesisConfig
from product1m.data.photos import Photo, resize_photo
from product1m.synthesis.backdrop import level_backdrop

Mask = Bool[np.ndarray, "H W"]

_EDGE_REACH_PX = 5
"""Window over which an edge's contrast is measured, in pixels of the reduced photo (ours)."""
_FAINT_LEVELS = 12
"""An edge with a smaller step, of 256 levels, in every channel does not count (ours)."""
_FRAMED_AREA, _FRAME_RIM, _MAX_FRAMES = 0.85, 0.02, 2
"""A mask with a larger area is a photo with a frame; width of the frame relative to the mask's; how
many frames inside each other are removed (ours)."""
_THREAD = 0.03
"""A part of a mask up to this width is a thread, relative to the photo's longer side (ours)."""
_MIN_SIDE_PX = 12
"""A smaller photo has too few pixels to model (ours)."""
_MIN_ALPHA = 0.5
"""A pixel of at least this opacity belongs to a cut-out (ours)."""


@dataclass(frozen=True)
class GrabCutSettings:
    """How GrabCut runs: the keys `background_synthesis.grabcut_*` and the section's seed."""

    side_px: int
    iterations: int
    margin: float
    dither: float
    """Standard deviation, in gray levels, of the noise added to the reduced photo.

    A studio backdrop has exactly one color. Without noise, the Gaussian fitted to it is so narrow
    that JPEG artifacts next to the product count as product, and a white halo is cut out with it.
    """
    seed: int

    @classmethod
    def from_config(cls, config: BackgroundSynthesisConfig) -> "GrabCutSettings":
        """The settings in a configuration section."""
        return cls(
            side_px=config.grabcut_side_px,
            iterations=config.grabcut_iterations,
            margin=config.grabcut_margin,
            dither=config.grabcut_dither,
            seed=config.seed,
        )


@dataclass(frozen=True)
class MaskQuality:
    """Figures that decide whether a mask is plausible as one product."""

    area: float
    """Share of the photo the mask covers."""
    border_contact: float
    """Share of the frame's inner edge inside the mask; high if the photo cuts off the product."""
    dominant_share: float
    """Share of the mask in its largest connected part."""
    faint_edge: float
    """Share of the mask's outline where the photo shows no edge."""


def foreground(photo: Photo, settings: GrabCutSettings) -> tuple[Mask, MaskQuality]:
    """The largest connected part of GrabCut's foreground, and the quality of the whole foreground.

    The mask has the reduced photo's size. It is empty if GrabCut finds nothing or all pixels have
    one color. If it finds only a picture frame, it runs again inside the frame.
    """
    small = resize_photo(photo, min(1.0, settings.side_px / max(photo.shape[:2])))
    top, left, inside = 0, 0, small
    for _ in range(_MAX_FRAMES + 1):
        mask = _grab_cut(np.ascontiguousarray(inside), settings)
        rim = max(2, round(_FRAME_RIM * mask.shape[1]))
        if mask.mean() <= _FRAMED_AREA or min(mask.shape) < _MIN_SIDE_PX + 4 * rim:
            break
        x1, y1, x2, y2 = bounds(mask)
        inside = inside[y1 + rim : y2 - rim, x1 + rim : x2 - rim]
        top, left = top + y1 + rim, left + x1 + rim
    dominant = largest_part(without_threads(mask))
    quality = MaskQuality(
        area=float(mask.sum() / small[..., 0].size),
        border_contact=_border_contact(mask, settings.margin),
        dominant_share=float(dominant.sum() / max(1, mask.sum())),
        faint_edge=_faint_edge(inside, dominant),
    )
    whole = np.zeros(small.shape[:2], bool)
    whole[top : top + dominant.shape[0], left : left + dominant.shape[1]] = dominant
    return whole, quality


def soft_mask(mask: Mask, width: int, height: int) -> Float32[np.ndarray, "H W"]:
    """The mask at another size with soft edges, 0 … 1; it is 0.5 on the outline."""
    size = (width, height)
    grown = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    return np.asarray(grown, dtype=np.float32)


def largest_part(mask: Mask) -> Mask:
    """The largest 8-connected part of a mask; an empty mask stays empty."""
    count, parts, statistics, _ = cv2.connectedComponentsWithStats(
        mask.astype(np.uint8), connectivity=8
    )
    if count < 2:
        return mask
    return np.asarray(parts == 1 + int(np.argmax(statistics[1:, cv2.CC_STAT_AREA])))


def without_threads(mask: Mask) -> Mask:
    """The mask without parts thinner than a few pixels, such as a horizon or a link to a banner.

    Unchanged if that would remove half of it, because some products are thin.
    """
    width = (
        2 * max(1, round(_THREAD * max(mask.shape) / 2)) + 1
    )  # odd, so that it does not shift the mask
    opened = cv2.morphologyEx(
        mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((width, width), np.uint8)
    )
    return np.asarray(opened > 0) if 2 * opened.sum() > mask.sum() else mask


def cut_out(photo: Photo, mask: Mask, max_side_px: int) -> UInt8[np.ndarray, "h w 4"]:
    """The masked product as RGBA, cropped to it, its longer side at most `max_side_px`.

    Colors outside the outline are kept, so that a later blur of the alpha shows no dark fringe.
    """
    height, width = photo.shape[:2]
    alpha = soft_mask(mask, width, height)
    left, top, right, bottom = bounds(alpha >= _MIN_ALPHA)
    rows = slice(max(0, top - 2), min(height, bottom + 2))
    columns = slice(max(0, left - 2), min(width, right + 2))
    levels = np.rint(alpha[rows, columns] * 255).astype(np.uint8)
    cutout = np.dstack([photo[rows, columns], levels])
    scale = min(1.0, max_side_px / max(cutout.shape[:2]))
    return resize_photo(cutout, scale) if scale < 1 else cutout


def bounds(mask: Mask) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a non-empty mask; right and bottom are exclusive."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _grab_cut(photo: Photo, settings: GrabCutSettings) -> Mask:
    height, width = photo.shape[:2]
    labels = np.zeros((height, width), np.uint8)
    if min(height, width) >= _MIN_SIDE_PX and int(np.ptp(photo)) > 0:
        left, top = _margins(labels.shape, settings.margin)
        dithered = _dithered(level_backdrop(photo), settings.dither, settings.seed)
        rectangle = (left, top, width - 2 * left, height - 2 * top)
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.setRNGSeed(settings.seed)
        cv2.grabCut(
            dithered, labels, rectangle, *models, settings.iterations, cv2.GC_INIT_WITH_RECT
        )
    return np.asarray((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD))


def _margins(shape: tuple[int, ...], margin: float) -> tuple[int, int]:
    return max(1, round(shape[1] * margin)), max(1, round(shape[0] * margin))


def _dithered(photo: Photo, strength: float, seed: int) -> Photo:
    if not strength:
        return photo
    noise = np.random.default_rng(seed).standard_normal(photo.shape, np.float32) * strength
    # Levels are compressed by three deviations at both ends, so noise on pure white is not clipped.
    room = 3 * strength
    levels = photo * np.float32(1 - 2 * room / 255) + np.float32(room) + noise
    return np.asarray(np.clip(levels, 0, 255).astype(np.uint8))


def _border_contact(mask: Mask, margin: float) -> float:
    left, top = _margins(mask.shape, margin)
    # GrabCut never marks the frame itself, so contact is visible on the first pixels inside it.
    inner = mask[top : mask.shape[0] - top, left : mask.shape[1] - left]
    if not inner.size:
        return 0.0
    edge = np.concatenate([inner[0], inner[-1], inner[:, 0], inner[:, -1]])
    return float(edge.mean())


def _faint_edge(photo: Photo, mask: Mask) -> float:
    kernel = np.ones((3, 3), np.uint8)
    outline = mask & ~cv2.erode(mask.astype(np.uint8), kernel).astype(bool)
    if not outline.any():
        return 0.0
    window = np.ones((_EDGE_REACH_PX, _EDGE_REACH_PX), np.uint8)
    contrast = (cv2.dilate(photo, window) - cv2.erode(photo, window)).max(axis=2)
    return float((contrast[outline] < _FAINT_LEVELS).mean())
