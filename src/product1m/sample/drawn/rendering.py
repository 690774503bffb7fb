"""Compose photos: packs in settings, with shadows, mirror images, banners and camera faults."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import cv2
import numpy as np
from PIL import Image as PilImage
from PIL import ImageDraw, ImageFont

from product1m.data.photos import Photo
from product1m.sample.drawn.catalogue import PRODUCTS, Product
from product1m.sample.drawn.layers import Layer, PixelBox, ProductMap, cast_shadow, paste
from product1m.sample.drawn.packs import RIGS, Shot, Sprite, render_pack
from product1m.sample.drawn.plan import SampleRow
from product1m.sample.drawn.printing import font
from product1m.sample.drawn.surfaces import Image, blurred, pick
from product1m.sample.drawn.surroundings import (
    SELLER_SETTINGS,
    SELLER_SHARES,
    Stage,
    flat_lay,
    table,
    white,
)

SELLER_POSES, QUERY_POSES = (0, 7), (3, 10)
"""Ranges of poses, renderings of a product that its photos share, as sellers share a brand's
packshots: customers' photos show some that sellers' photos do not (ours)."""


@lru_cache(maxsize=1200)
def posed(product: Product, pose: int, carton: bool) -> Sprite:
    """A rendering of the product; the same for the same arguments in any process."""
    rng = np.random.default_rng([PRODUCTS.index(product), pose, carton])
    flat = product.shape == "compact" and not carton
    tilt = rng.uniform(48, 78) if flat else rng.choice([3, 8, 14, 22]) + rng.uniform(-3, 4)
    view = Shot(
        yaw_deg=float(rng.normal(0, 9) if pose < 3 else rng.uniform(-42, 42)),
        elevation_deg=float(tilt),
        distance=float(rng.uniform(2.6, 6)),
        rig=int(rng.integers(len(RIGS))),
    )  # fmt: skip
    return render_pack(product, view, carton=carton)


def render_with_boxes(row: SampleRow) -> tuple[Photo, list[tuple[PixelBox, str]]]:
    """The photo of a row, and around the visible part of each product a box with its label.

    Boxes go from left to right. Rows with equal seed and products have equal photos.
    """
    rng = np.random.default_rng(list(row.photo_seed))
    height, width = _frame(rng, row)
    stage = _stage(rng, row, height, width)
    image, product_map = stage.image.copy(), ProductMap(height, width)
    if row.photo_kind == "single":
        _place_single(rng, image, stage, row.products[0], product_map)
    elif stage.flat_lay:
        _lay(rng, image, stage, row.products, product_map)
    else:
        _line_up(rng, image, stage, row.products, product_map, query=row.photo_kind == "query")
    image = _through_camera(rng, image, harsh=row.photo_kind == "query")
    if rng.random() < {"single": 0.4, "set": 0.55, "query": 0.25}[row.photo_kind]:
        image = _with_banner(rng, image)
    return np.asarray((image * 255 + 0.5).clip(0, 255), np.uint8), product_map.boxes()


def _frame(rng: np.random.Generator, row: SampleRow) -> tuple[int, int]:
    side = int(rng.choice([320, 352, 384, 400]))
    if rng.random() < 0.8:
        return side, side
    if row.photo_kind == "single":
        return side, int(side * 0.75)
    return (int(side * 0.75), side) if rng.random() < 0.6 else (side, int(side * 0.75))


def _stage(rng: np.random.Generator, row: SampleRow, height: int, width: int) -> Stage:
    roll = rng.random()
    if row.photo_kind == "query" and roll < 0.5:
        return table(rng, height, width)
    if row.photo_kind == "query" and roll < 0.75:
        return flat_lay(rng, height, width)
    if row.photo_kind == "set" and roll < 0.08:
        return flat_lay(rng, height, width)
    if row.photo_kind == "set" and roll < 0.3:
        return white(rng, height, width)
    index = int(rng.choice(len(SELLER_SETTINGS), p=SELLER_SHARES))
    return SELLER_SETTINGS[index](rng, height, width)


def _pose(rng: np.random.Generator, query: bool) -> int:
    return int(rng.integers(*(QUERY_POSES if query else SELLER_POSES)))


@dataclass(frozen=True)
class _Cutout:
    """A sprite at its size in the photo, turned and lit."""

    pixels: Layer
    """RGB multiplied by alpha, and alpha, from 0 to 1."""


def _cutout(
    rng: np.random.Generator, sprite: Sprite, scale: float, turn_deg: float, relight: float
) -> _Cutout:
    pixels = sprite.pixels.astype(np.float32) / 255
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=method).clip(0, 1)
    shear = float(rng.normal(0, 0.015))
    if abs(turn_deg) > 0.3 or abs(shear) > 0.01:
        pixels = _turned(pixels, turn_deg, shear)
    across = np.linspace(-1, 1, pixels.shape[1], dtype=np.float32)[None, :, None]
    light = (1 + relight * float(rng.normal(0, 1))) * (
        1 + relight * float(rng.normal(0, 1)) * across
    )
    pixels[:, :, :3] *= np.clip(light, 0.45, 1.4)
    pixels[:, :, :3] = np.minimum(pixels[:, :, :3], pixels[:, :, 3:])
    return _Cutout(pixels)


def _turned(pixels: Layer, turn_deg: float, shear: float) -> Layer:
    height, width = pixels.shape[:2]
    turn = np.deg2rad(turn_deg)
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) @ np.array(
        [[1, shear], [0, 1]]
    )
    corners = np.array([[0, width, 0, width], [0, 0, height, height]], np.float64)
    spread = matrix @ corners
    size = np.ceil(spread.max(axis=1) - spread.min(axis=1)).astype(int) + 2
    offset = -spread.min(axis=1)[:, None] + 1
    affine = np.hstack([matrix, offset])
    turned = cv2.warpAffine(pixels, affine, (int(size[0]), int(size[1])), flags=cv2.INTER_LINEAR)
    filled = turned[:, :, 3] > 0.02
    ys, xs = np.flatnonzero(filled.any(axis=1)), np.flatnonzero(filled.any(axis=0))
    return np.asarray(turned[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1])


def _place_single(
    rng: np.random.Generator, image: Image, stage: Stage, product: Product, product_map: ProductMap
) -> None:
    height, width = image.shape[:2]
    sprite = posed(product, _pose(rng, query=False), False)
    fill = float(rng.uniform(0.5, 0.9))
    rows, columns = sprite.pixels.shape[:2]
    scale = fill * min(height * 0.95 / rows, width * 0.92 / columns)
    center = width * float(np.clip(rng.normal(0.5, 0.07), 0.25, 0.75))
    base = height * float(rng.uniform(*stage.floor))
    if rows * scale < 0.6 * height and not rng.integers(3):
        base = height * 0.5 + rows * scale * 0.5
    base = max(base, rows * scale + 0.02 * height)
    if rng.random() < 0.16 and product.shape != "box":
        carton = posed(product, int(rng.integers(3)), True)
        size = scale * sprite.px_per_cm / carton.px_per_cm
        aside = float(rng.choice([-1, 1])) * columns * scale * float(rng.uniform(0.55, 0.95))
        _stand(rng, image, stage, _cutout(rng, carton, size, 0, 0.06), center + aside, base * 0.985)
    tilt = float(rng.normal(0, 2.5)) if rng.random() < 0.5 else 0.0
    if rng.random() < 0.08:
        tilt = float(rng.choice([-90, 90])) + float(rng.normal(0, 3))
    _stand(
        rng,
        image,
        stage,
        _cutout(rng, sprite, scale, tilt, 0.08),
        center,
        base,
        product_map,
        product,
    )


def _line_up(
    rng: np.random.Generator,
    image: Image,
    stage: Stage,
    products: Sequence[Product],
    product_map: ProductMap,
    query: bool,
) -> None:
    """Draw products side by side, nearer ones lower and in front of the others."""
    spots = _spots_side_by_side(rng, image, stage, products, query)
    for base, center, product, sprite, scale in sorted(spots, key=lambda spot: spot[0]):
        tilt = float(rng.normal(0, 2.5)) if rng.random() < 0.4 else 0.0
        if query and rng.random() < 0.06:
            tilt = float(rng.choice([-88, 88]))
        cutout = _cutout(rng, sprite, scale, tilt, 0.1 if query else 0.06)
        floor = max(base, cutout.pixels.shape[0] + 2)
        _stand(rng, image, stage, cutout, center, floor, product_map, product)


def _spots_side_by_side(
    rng: np.random.Generator,
    image: Image,
    stage: Stage,
    products: Sequence[Product],
    query: bool,
) -> list[tuple[float, float, Product, Sprite, float]]:
    """Base and center in pixels, product, sprite and scale, for every product."""
    height, width = image.shape[:2]
    order = [products[at] for at in rng.permutation(len(products))]
    sprites = [posed(product, _pose(rng, query), False) for product in order]
    # Sellers show small things larger than they are.
    sizes = [
        (max(sprite.pixels.shape) / sprite.px_per_cm / 12) ** -0.45 / sprite.px_per_cm
        for sprite in sprites
    ]
    widths = [s.pixels.shape[1] * size for s, size in zip(sprites, sizes, strict=True)]
    heights = [s.pixels.shape[0] * size for s, size in zip(sprites, sizes, strict=True)]
    overlap = float(rng.uniform(0.62, 0.92) if query else rng.uniform(0.75, 1.05))
    unit = min(
        width * float(rng.uniform(0.72, 0.94)) / (sum(widths) * overlap),
        height * float(rng.uniform(0.5, 0.82)) / max(heights),
    )
    span = sum(widths) * unit * overlap
    left = (width - span) * float(rng.uniform(0.3, 0.7))
    low, high = stage.floor
    spots = []
    for product, sprite, size, wide in zip(order, sprites, sizes, widths, strict=True):
        center = left + wide * unit * overlap / 2
        left += wide * unit * overlap
        depth = float(rng.uniform(0, 1))
        base = height * (low + (high - low) * depth)
        near = 0.86 + 0.2 * depth if high - low > 0.12 else 1.0
        spots.append((base, center, product, sprite, size * unit * near))
    return spots


def _lay(
    rng: np.random.Generator,
    image: Image,
    stage: Stage,
    products: Sequence[Product],
    product_map: ProductMap,
) -> None:
    """Draw products on a loose grid, each rotated by a random angle."""
    height, width = image.shape[:2]
    columns = 2 if len(products) in (2, 4) else int(np.ceil(np.sqrt(len(products))))
    rows = int(np.ceil(len(products) / columns))
    cell = np.array([width / columns, height / rows])
    lean = float(rng.uniform(0, 360)) if rng.random() < 0.4 else float(rng.normal(0, 25))
    angle = np.deg2rad(float(rng.uniform(0, 360)))
    shift = (float(np.cos(angle)) * 6, float(np.sin(angle)) * 6)
    for at, product in enumerate(products):
        sprite = posed(product, _pose(rng, query=True), False)
        turn = lean + float(rng.normal(0, 18))
        long_side = max(sprite.pixels.shape[:2])
        reach = max(cell.min(), 0.62 * cell.max()) * (long_side / sprite.px_per_cm / 14) ** 0.4
        scale = reach * float(rng.uniform(0.72, 0.98)) / long_side
        cutout = _cutout(rng, sprite, scale, turn, 0.1)
        middle = (np.array([at % columns, at // columns]) + 0.5 + rng.normal(0, 0.07, 2)) * cell
        x = int(middle[0] - cutout.pixels.shape[1] / 2)
        y = int(middle[1] - cutout.pixels.shape[0] / 2)
        cast_shadow(image, cutout.pixels[:, :, 3], x + shift[0], y + shift[1], 4.5, stage.shadow)
        paste(image, cutout.pixels, x, y)
        product_map.add(cutout.pixels, x, y, product.label)


def _stand(
    rng: np.random.Generator,
    image: Image,
    stage: Stage,
    cutout: _Cutout,
    center: float,
    base: float,
    product_map: ProductMap | None = None,
    product: Product | None = None,
) -> None:
    """Put a product on its base, with the dark below it, a cast shadow and a mirror image.

    `product_map` records which product it is; a carton behind it is not recorded.
    """
    rows, columns = cutout.pixels.shape[:2]
    x, y = int(center - columns / 2), int(base - rows)
    alpha = cutout.pixels[:, :, 3]
    squash = float(rng.uniform(0.1, 0.22))
    flat = cv2.resize(alpha, (columns, max(3, int(rows * squash))), interpolation=cv2.INTER_AREA)
    lean = float(rng.uniform(-0.9, 0.9)) * flat.shape[0]
    shear = np.array([[1, -lean / flat.shape[0], max(lean, 0)], [0, 1, 0]], np.float64)
    flat = cv2.warpAffine(flat, shear, (columns + int(abs(lean)), flat.shape[0]))
    fade = np.linspace(0.25, 1, flat.shape[0], dtype=np.float32)[:, None]
    cast_shadow(image, flat * fade, x + min(lean, 0), base - flat.shape[0] + 1, 4.0, stage.shadow)
    foot = np.zeros((max(5, columns // 9), columns), np.float32)
    axes = (int(columns * 0.46), max(2, foot.shape[0] // 2))
    cv2.ellipse(foot, (columns // 2, foot.shape[0] // 2), axes, 0, 0, 360, 1.0, -1)
    cast_shadow(image, foot, x, base - foot.shape[0] * 0.6, 2.0, min(0.75, stage.shadow * 1.5))
    if stage.mirror:
        below = cutout.pixels[::-1][: max(2, rows // 3)].copy()
        below *= np.linspace(stage.mirror, 0, len(below), dtype=np.float32)[:, None, None]
        paste(image, below, x, int(base))
    paste(image, cutout.pixels, x, y)
    if product_map is not None and product is not None:
        product_map.add(cutout.pixels, x, y, product.label)


_GRAIN_SIDE = 640


@cache
def _grain() -> Image:
    """Noise of unit variance of which each photo uses a piece; new noise would take too long."""
    rng = np.random.default_rng(8)
    return rng.standard_normal((_GRAIN_SIDE, _GRAIN_SIDE, 3), np.float32)


def _through_camera(rng: np.random.Generator, image: Image, harsh: bool) -> Image:
    """White balance, exposure, vignette, blur and noise; more of each in customers' photos."""
    strength = 1.0 if harsh else 0.45
    warmth = float(rng.normal(0, 0.07)) * strength
    gains = np.array(
        [1 + warmth, 1 + float(rng.normal(0, 0.02)) * strength, 1 - warmth], np.float32
    )
    exposure = float(np.clip(rng.normal(1.0, 0.14 * strength), 0.6, 1.3))
    gamma = float(np.clip(rng.normal(1, 0.12 * strength), 0.7, 1.4))
    image = cv2.pow((image * (gains * np.float32(exposure))).clip(0, 1), gamma)
    if rng.random() < 0.5 * strength:
        height, width = image.shape[:2]
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        image = image * (1 - 0.2 * (x * x + y * y)[:, :, None]).astype(np.float32)
    if rng.random() < 0.35 * strength:
        image = blurred(np.asarray(image, np.float32), float(rng.uniform(0.5, 1.3)))
    grain = float(rng.uniform(0, 0.022)) * strength
    top, left = rng.integers(0, _GRAIN_SIDE - np.array(image.shape[:2]))
    noise = _grain()[top : top + image.shape[0], left : left + image.shape[1]]
    noisy = image + noise * grain
    return np.asarray(noisy.clip(0, 1), np.float32)


_BANNERS = (
    "HOT SALE", "NEW", "-30%", "OFFICIAL STORE", "BUY 1 GET 1", "FREE GIFT", "TOP 1", "24H",
    "-50 OFF", "BEST PRICE", "11.11", "6.18", "VIP", "LIMITED EDITION", "100% GENUINE",
    "DAY & NIGHT",
)  # fmt: skip
_BANNER_COLORS = (
    "#d6202a",
    "#f04f78",
    "#1f2a44",
    "#f5a623",
    "#2f8f6b",
    "#7b3fa0",
    "#111111",
    "#c59a4a",
)


def _with_banner(rng: np.random.Generator, image: Image) -> Image:
    """A seller's strip, corner badge, frame or line of text."""
    height, width = image.shape[:2]
    canvas = PilImage.fromarray((image * 255).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    kind = pick(rng, ("strip", "badge", "text", "frame", "strip"))
    fill, text = pick(rng, _BANNER_COLORS), pick(rng, _BANNERS)
    style = pick(rng, ("sans", "serif", "bold", "condensed"))
    if kind == "strip":
        tall = int(height * rng.uniform(0.08, 0.15))
        top = 0 if rng.random() < 0.5 else height - tall
        draw.rectangle((0, top, width, top + tall), fill=fill)
        words = f"{text}  {pick(rng, _BANNERS)}"
        chosen = _fitting(words, style, tall // 2, width * 0.94)
        draw.text((width / 2, top + tall / 2), words, "#ffffff", chosen, anchor="mm")
    elif kind == "badge":
        size = int(width * rng.uniform(0.14, 0.22))
        x = 6 if rng.random() < 0.5 else width - size - 6
        y = 6 if rng.random() < 0.6 else height - size - 6
        draw.ellipse((x, y, x + size, y + size), fill=fill)
        chosen = _fitting(text, style, size // 4, size * 0.86)
        draw.text((x + size / 2, y + size / 2), text, "#ffffff", chosen, anchor="mm")
    elif kind == "frame":
        draw.rectangle((0, 0, width - 1, height - 1), outline=fill, width=max(4, width // 40))
    else:
        left = width * float(rng.uniform(0.04, 0.25))
        y = int(height * rng.uniform(0.03, 0.1))
        chosen = _fitting(text, style, int(width * rng.uniform(0.05, 0.09)), width * 0.97 - left)
        draw.text((left, y), text, fill, chosen)
    return np.asarray(canvas, np.float32) / 255


def _fitting(text: str, style: str, size: int, widest: float) -> ImageFont.FreeTypeFont:
    return font(style, int(size * min(1.0, widest / font(style, size).getlength(text))))
