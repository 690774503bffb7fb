"""Paste cut-outs on a background, and record each product's visible pixels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8

from product1m.config import BackgroundSynthesisConfig
from product1m.data.photos import Photo, resize_photo
from product1m.synthesis.grabcut import bounds

Rgba = UInt8[np.ndarray, "h w 4"]

_MAX_PLACEMENTS = 30
"""Number of places tried for a product before it is dropped (ours)."""
_SHRINK = 0.94
"""Factor by which a product that does not fit shrinks before the next try (ours)."""
_OPAQUE = 0.5
"""A pixel of at least this opacity shows the product (ours)."""
_MIN_VISIBLE_PX = 16
"""A product with fewer visible pixels is not pasted (ours)."""


@dataclass(frozen=True)
class PasteSettings:
    """How products are changed and placed.

    The section `background_synthesis` of the configuration explains each value.
    """

    min_scale: float
    max_scale: float
    max_rotation_deg: float
    flip_probability: float
    max_brightness_change: float
    max_shadow: float
    max_occlusion: float
    edge_softness_px: float

    @classmethod
    def from_config(cls, config: BackgroundSynthesisConfig) -> "PasteSettings":
        """The settings in a configuration section."""
        return cls(
            min_scale=config.min_scale,
            max_scale=config.max_scale,
            max_rotation_deg=config.max_rotation_deg,
            flip_probability=config.flip_probability,
            max_brightness_change=config.max_brightness_change,
            max_shadow=config.max_shadow,
            max_occlusion=config.max_occlusion,
            edge_softness_px=config.edge_softness_px,
        )


@dataclass(frozen=True)
class Look:
    """How a cut-out is changed before it is pasted."""

    side_px: float
    """Its longer side before rotation."""
    rotation_deg: float
    flipped: bool
    brightness: float
    shadow: float
    """Share of the light that its shadow removes."""


@dataclass(frozen=True)
class Pasted:
    """A product of a scene."""

    source: int
    """Position of its cut-out."""
    box_xyxy: tuple[int, int, int, int]
    """Box around the visible part; right and bottom are exclusive."""
    mask: Bool[np.ndarray, "H W"]
    """The visible part, in the scene's frame."""
    visible: float
    """Share of the product that no other product covers."""


@dataclass(frozen=True)
class PastedScene:
    """A composed photo and its products in the order of pasting; later ones are on top."""

    photo: Photo
    products: tuple[Pasted, ...]
    num_dropped: int
    """Products for which no place left all products visible enough."""


@dataclass(frozen=True)
class _Layer:
    color: Float32[np.ndarray, "h w 3"]
    alpha: Float32[np.ndarray, "h w"]


def paste(
    background: Photo,
    cutouts: Sequence[Rgba],
    settings: PasteSettings,
    rng: np.random.Generator,
) -> PastedScene:
    """Paste every cut-out once, completely inside the frame, at random places.

    If a place would cover any product by more than `max_occlusion`, another place is tried with a
    smaller product; after `_MAX_PLACEMENTS` the product is dropped.
    """
    image = background.astype(np.float32)
    owner = np.full(background.shape[:2], -1, np.int16)
    areas: list[int] = []
    sources: list[int] = []
    for source, cutout in enumerate(cutouts):
        look = draw_look(settings, rng, min(background.shape[:2]))
        for _ in range(_MAX_PLACEMENTS):
            layer = transform(cutout, look, settings.edge_softness_px)
            corner = _draw_corner(layer, owner.shape, rng)
            if corner and _stays_visible(owner, layer, corner, areas, settings.max_occlusion):
                _put(image, owner, layer, corner, len(areas), look.shadow)
                areas.append(int((layer.alpha >= _OPAQUE).sum()))
                sources.append(source)
                break
            look = replace(look, side_px=look.side_px * _SHRINK)
    products = tuple(
        _pasted(owner == number, source, area)
        for number, (source, area) in enumerate(zip(sources, areas, strict=True))
    )
    photo = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    return PastedScene(photo, products, len(cutouts) - len(products))


def draw_look(settings: PasteSettings, rng: np.random.Generator, frame_px: int) -> Look:
    """Draw how a product is changed; `frame_px` is the scene's shorter side."""
    change = settings.max_brightness_change
    return Look(
        side_px=rng.uniform(settings.min_scale, settings.max_scale) * frame_px,
        rotation_deg=rng.uniform(-settings.max_rotation_deg, settings.max_rotation_deg),
        flipped=bool(rng.random() < settings.flip_probability),
        brightness=rng.uniform(1 - change, 1 + change),
        shadow=rng.uniform(0, settings.max_shadow),
    )


def transform(cutout: Rgba, look: Look, softness_px: float) -> _Layer:
    """Resize, mirror, turn and light a cut-out; its edge fades inward, so no backdrop shows."""
    cutout = cutout[:, ::-1] if look.flipped else cutout
    small = resize_photo(np.ascontiguousarray(cutout), look.side_px / max(cutout.shape[:2]))
    height, width = small.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), look.rotation_deg, 1)
    cos, sin = abs(turn[0, 0]), abs(turn[0, 1])
    size = (int(np.ceil(width * cos + height * sin)), int(np.ceil(width * sin + height * cos)))
    turn[:, 2] += ((size[0] - width) / 2, (size[1] - height) / 2)
    color = cv2.warpAffine(small[..., :3], turn, size, borderMode=cv2.BORDER_REPLICATE)
    alpha = cv2.warpAffine(small[..., 3], turn, size).astype(np.float32) / 255
    return _trimmed(
        _Layer(
            np.asarray(np.clip(color.astype(np.float32) * look.brightness, 0, 255)),
            _softened(alpha, softness_px),
        )
    )


def _softened(alpha: Float32[np.ndarray, "h w"], softness_px: float) -> Float32[np.ndarray, "h w"]:
    if not softness_px:
        return alpha
    room = int(np.ceil(3 * softness_px))
    padded = np.pad(alpha, room)
    blurred = cv2.GaussianBlur(padded, (0, 0), softness_px)[room:-room, room:-room]
    # The outline is where the blur is 0.5; the backdrop outside it becomes transparent.
    return np.asarray(np.clip(2 * blurred - 1, 0, 1), np.float32)


def _trimmed(layer: _Layer) -> _Layer:
    shown = layer.alpha >= _OPAQUE
    if not shown.any():
        return _Layer(layer.color[:0, :0], layer.alpha[:0, :0])
    left, top, right, bottom = bounds(shown)
    rows, columns = slice(top, bottom), slice(left, right)
    return _Layer(layer.color[rows, columns], layer.alpha[rows, columns])


def _draw_corner(
    layer: _Layer, frame: tuple[int, ...], rng: np.random.Generator
) -> tuple[int, int] | None:
    """Top and left of a place inside the frame; None if the product is too large or too small."""
    room_y, room_x = (frame[axis] - layer.alpha.shape[axis] for axis in (0, 1))
    if min(room_x, room_y) < 0 or (layer.alpha >= _OPAQUE).sum() < _MIN_VISIBLE_PX:
        return None
    return int(rng.integers(room_y + 1)), int(rng.integers(room_x + 1))


def _stays_visible(
    owner: Int[np.ndarray, "H W"],
    layer: _Layer,
    corner: tuple[int, int],
    areas: Sequence[int],
    max_occlusion: float,
) -> bool:
    if not areas:
        return True
    top, left = corner
    height, width = layer.alpha.shape
    visible = np.bincount(owner[owner >= 0], minlength=len(areas))
    under = owner[top : top + height, left : left + width][layer.alpha >= _OPAQUE]
    covered = np.bincount(under[under >= 0], minlength=len(areas))
    kept = (visible - covered) / np.array(areas)
    return bool((kept >= 1 - max_occlusion).all())


def _put(
    image: Float32[np.ndarray, "H W 3"],
    owner: Int[np.ndarray, "H W"],
    layer: _Layer,
    corner: tuple[int, int],
    number: int,
    shadow: float,
) -> None:
    top, left = corner
    height, width = layer.alpha.shape
    _cast_shadow(image, layer.alpha, corner, shadow)
    place = slice(top, top + height), slice(left, left + width)
    alpha = layer.alpha[..., None]
    image[place] = image[place] * (1 - alpha) + layer.color * alpha
    owner[place][layer.alpha >= _OPAQUE] = number


def _cast_shadow(
    image: Float32[np.ndarray, "H W 3"],
    alpha: Float32[np.ndarray, "h w"],
    corner: tuple[int, int],
    strength: float,
) -> None:
    height, width = alpha.shape
    sigma = max(1.0, 0.04 * max(height, width))
    room = int(np.ceil(3 * sigma))
    shade = np.pad(alpha, room)
    shade = cv2.GaussianBlur(shade, (0, 0), sigma) * strength
    # Light comes from above, so the shadow is a little below its product.
    top, left = corner[0] - room + round(sigma), corner[1] - room
    rows = slice(max(0, top), min(image.shape[0], top + shade.shape[0]))
    columns = slice(max(0, left), min(image.shape[1], left + shade.shape[1]))
    part = shade[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    image[rows, columns] *= 1 - part[..., None]


def _pasted(mask: Bool[np.ndarray, "H W"], source: int, area: int) -> Pasted:
    return Pasted(source, bounds(mask), mask, float(mask.sum() / area))
