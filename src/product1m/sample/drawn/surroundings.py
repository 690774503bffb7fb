"""Settings of photos: sellers' backdrops, and the tables and flat lays of query photos."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from product1m.sample.drawn.surfaces import (
    SURFACES,
    Image,
    blurred,
    cloth,
    color,
    fractal,
    marble,
    noise,
    pick,
    plaster,
    receding,
    shaded,
    tiles,
    wood,
)


@dataclass(frozen=True)
class Stage:
    """An empty picture that products are put into."""

    image: Image
    floor: tuple[float, float]
    """Range of the products' base line: distance from the top, as a share of the photo's height."""
    flat_lay: bool = False
    """Seen from above: products are lying down, rotated by a random angle."""
    mirror: float = 0.0
    """How much the floor mirrors."""
    shadow: float = 0.4


_STUDIO_COLORS = (
    "#f6d9de", "#d7e8f3", "#e9e2f4", "#f8ecd6", "#dfeee1", "#f3c6bb", "#c9dff0", "#e5c8a8",
    "#b7c9e8", "#f2b8c6", "#262a36", "#3a2a2a", "#dcdcdc", "#a8c7b8", "#c7382f", "#e8b64c",
)  # fmt: skip


def white(rng: np.random.Generator, height: int, width: int) -> Stage:
    """A cut-out on white, as marketplaces ask for."""
    shade = float(rng.uniform(0.94, 1.0))
    image = np.full((height, width, 3), shade, np.float32)
    if rng.random() < 0.4:
        image *= (1 - 0.08 * np.linspace(0, 1, height, dtype=np.float32) ** 2)[:, None, None]
    return Stage(image, (0.86, 0.96), mirror=float(rng.choice([0, 0, 0.18])), shadow=0.25)


def gradient(rng: np.random.Generator, height: int, width: int) -> Stage:
    """Colored paper with a glow."""
    base = color(pick(rng, _STUDIO_COLORS))
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    center = rng.uniform(0.3, 0.7) * width, rng.uniform(0.2, 0.6) * height
    glow = np.exp(-((x - center[0]) ** 2 + (y - center[1]) ** 2) / (0.5 * width) ** 2)
    image = shaded(base * float(rng.uniform(0.75, 1.0)), np.minimum(base * 1.25 + 0.1, 1), glow)
    if rng.random() < 0.6:
        horizon = int(height * rng.uniform(0.62, 0.78))
        ramp = np.clip((y - horizon) / (0.05 * height), 0, 1)
        image = image * (1 - 0.14 * ramp[:, :, None] * rng.uniform(0.3, 1))
    return Stage(image.clip(0, 1), (0.82, 0.95), mirror=float(rng.choice([0, 0, 0.22])))


def podium(rng: np.random.Generator, height: int, width: int) -> Stage:
    """A round pedestal before a wall, with an arch or a disc behind."""
    base = color(pick(rng, _STUDIO_COLORS))
    wall = np.minimum(base * float(rng.uniform(0.85, 1.05)), 1)
    image = np.full((height, width, 3), wall, np.float32)
    disc = np.minimum(wall * 1.12 + 0.04, 1).tolist()
    center = (int(width * rng.uniform(0.4, 0.6)), int(height * rng.uniform(0.35, 0.5)))
    cv2.circle(image, center, int(width * rng.uniform(0.28, 0.42)), disc, -1, cv2.LINE_AA)
    top = int(height * rng.uniform(0.8, 0.85))
    floor_line = int(height * 0.74)
    image[floor_line:] *= 0.9
    axes = (int(width * 0.42), int(height * 0.055))
    side = (wall * 0.82).tolist()
    middle = width // 2
    cv2.rectangle(image, (middle - axes[0], top), (middle + axes[0], height), side, -1)
    fall = np.linspace(1.15, 0.75, 2 * axes[0], dtype=np.float32)[None, :, None]
    image[top:, middle - axes[0] : middle + axes[0]] *= fall
    face = np.minimum(wall * 1.08 + 0.03, 1).tolist()
    cv2.ellipse(image, (middle, top), axes, 0, 0, 360, face, -1, cv2.LINE_AA)
    return Stage(blurred(image, 0.7).clip(0, 1), (0.825, 0.865))


def water(rng: np.random.Generator, height: int, width: int) -> Stage:
    """Drops and ripples, the emblem of moisture."""
    base = color(pick(rng, ("#bfe0f5", "#d5ecf2", "#9ccbe8", "#e3eefb", "#c9e7df")))
    ripples = np.sin(fractal(rng, height, width, 70) * 22)
    image = shaded(base, np.minimum(base * 1.3, 1), np.clip(ripples, 0, 1) * 0.7)
    for _ in range(int(rng.integers(8, 30))):
        center = (int(rng.integers(width)), int(rng.integers(height)))
        radius = int(rng.integers(3, 16))
        cv2.circle(image, center, radius, (base * 0.85).tolist(), -1, cv2.LINE_AA)
        light = (center[0] - radius // 3, center[1] - radius // 3)
        cv2.circle(image, light, max(radius // 3, 1), (1, 1, 1), -1, cv2.LINE_AA)
    return Stage(image.clip(0, 1), (0.84, 0.95), mirror=0.15)


def petals(rng: np.random.Generator, height: int, width: int) -> Stage:
    """Colored paper strewn with petals or leaves, out of focus."""
    paper = gradient(rng, height, width)
    image = paper.image.copy()
    tint = color(pick(rng, ("#e8899b", "#7fae6c", "#f3d27a", "#b79fd6", "#ffffff")))
    for _ in range(int(rng.integers(8, 22))):
        center = (int(rng.integers(width)), int(rng.integers(height)))
        axes = (int(rng.integers(8, 26)), int(rng.integers(4, 11)))
        shade = (tint * rng.uniform(0.75, 1.05)).clip(0, 1).tolist()
        cv2.ellipse(image, center, axes, int(rng.integers(360)), 0, 360, shade, -1, cv2.LINE_AA)
    return Stage(blurred(image, float(rng.uniform(0.5, 2.5))), paper.floor)


def counter(rng: np.random.Generator, height: int, width: int) -> Stage:
    """A plain tabletop before a plain wall: what a seller has at home."""
    edge = int(height * rng.uniform(0.52, 0.7))
    wall = plaster(rng, edge, width)
    texture = pick(rng, (marble, wood, cloth))(rng, 220, 420)
    table = receding(texture, height - edge, width, 0.55)
    image = np.vstack([blurred(wall, 3), blurred(table, 0.6)])
    return Stage(_lit_from_side(rng, image), (0.8, 0.94), shadow=0.45)


SELLER_SETTINGS: tuple[Callable[[np.random.Generator, int, int], Stage], ...] = (
    white, gradient, podium, water, petals, counter,
)  # fmt: skip
SELLER_SHARES = (0.4, 0.24, 0.1, 0.06, 0.08, 0.12)
"""How often sellers use each (ours)."""


def table(rng: np.random.Generator, height: int, width: int) -> Stage:
    """A customer's table: a busy wall, a textured top, things lying about."""
    edge = int(height * rng.uniform(0.34, 0.58))
    wall_kind = pick(rng, ("plaster", "tiles", "shelf", "curtain", "window"))
    wall = _WALLS[wall_kind](rng, edge, width)
    texture = SURFACES[pick(rng, ("wood", "marble", "terrazzo", "cloth", "tiles", "slate"))]
    top = receding(texture(rng, 260, 520), height - edge, width, float(rng.uniform(0.45, 0.65)))
    wall = blurred(wall, float(rng.uniform(1.5, 5)))
    image = np.vstack([wall * float(rng.uniform(0.75, 1)), top])
    image[edge - 2 : edge + 1] *= 0.7
    for _ in range(int(rng.integers(1, 4))):
        standing_prop(rng, image, edge + 0.12 * (height - edge))
    sharpness = float(rng.uniform(0.5, 1.6))
    return Stage(
        _lit_from_side(rng, blurred(image, sharpness)),
        (edge / height + 0.22, 0.97),
        mirror=0.12 if texture is marble and rng.random() < 0.5 else 0.0,
        shadow=float(rng.uniform(0.3, 0.6)),
    )


def flat_lay(rng: np.random.Generator, height: int, width: int) -> Stage:
    """A surface seen from above, strewn with small things."""
    name = pick(rng, ("cloth", "wood", "marble", "terrazzo", "slate", "tiles", "cloth"))
    image = SURFACES[name](rng, height, width)
    for _ in range(int(rng.integers(3, 9))):
        lying_prop(rng, image)
    return Stage(
        _lit_from_side(rng, blurred(image, 0.7)), (0.0, 1.0), flat_lay=True,
        shadow=float(rng.uniform(0.3, 0.55)),
    )  # fmt: skip


def standing_prop(rng: np.random.Generator, image: Image, base_y: float) -> None:
    """A cup, a stack of books, a candle, a plant or a folded towel, drawn in place."""
    height, width = image.shape[:2]
    x = int(rng.uniform(0.02, 0.98) * width)
    tall, wide = int(height * rng.uniform(0.12, 0.3)), int(width * rng.uniform(0.1, 0.2))
    base = int(base_y + rng.uniform(0, 0.12) * height)
    tint = color(
        pick(rng, ("#e9e4da", "#7a8f9c", "#b5654a", "#d9b48f", "#4d5b4c", "#c9c3d6", "#2f3a4a"))
    )
    kind = pick(rng, ("cup", "books", "plant", "towel"))
    left, right = max(x - wide // 2, 0), min(x + wide // 2, width)
    if kind == "books":
        for _ in range(int(rng.integers(2, 5))):
            thick = max(4, tall // 5)
            shade = color(pick(rng, ("#a14a3c", "#e6dcc6", "#3d5a73", "#7e8f62", "#d7a94b")))
            image[max(base - thick, 0) : base, left:right] = shade
            image[max(base - thick, 0) : max(base - thick, 0) + 1, left:right] *= 0.6
            base -= thick
        return
    if kind == "plant":
        for _ in range(16):
            tip = (x + int(rng.normal(0, wide * 0.6)), base - tall - int(rng.normal(0, tall * 0.4)))
            leaf = (color("#4f7d48") * rng.uniform(0.6, 1.2)).clip(0, 1).tolist()
            cv2.ellipse(image, tip, (wide // 3 + 2, wide // 8 + 2), int(rng.integers(360)), 0, 360,
                        leaf, -1, cv2.LINE_AA)  # fmt: skip
        tall = tall * 2 // 3
    _cylinder(image, left, right, max(base - tall, 0), base, tint)
    if kind == "towel":
        image[max(base - tall, 0) : base : max(tall // 4, 1), left:right] *= 0.8


def _cylinder(image: Image, left: int, right: int, top: int, base: int, tint: Image) -> None:
    if right <= left or base <= top:
        return
    across = np.linspace(-1, 1, right - left, dtype=np.float32)
    light = 0.65 + 0.45 * np.exp(-((across + 0.35) ** 2) / 0.3)
    image[top:base, left:right] = (tint * light[:, None]).clip(0, 1)[None]
    middle, half = (left + right) // 2, (right - left) // 2
    for y, shade in ((base, 0.7), (top, 1.05)):
        tone = (tint * shade).clip(0, 1).tolist()
        cv2.ellipse(image, (middle, y), (half, max(half // 5, 1)), 0, 0, 360, tone, -1, cv2.LINE_AA)


def lying_prop(rng: np.random.Generator, image: Image) -> None:
    """A leaf, a cotton pad, a card, beads or a ribbon, drawn in place."""
    height, width = image.shape[:2]
    center = (int(rng.integers(width)), int(rng.integers(height)))
    size = int(width * rng.uniform(0.05, 0.16))
    kind = pick(rng, ("leaf", "pad", "card", "beads", "ring"))
    angle = float(rng.uniform(0, 360))
    if kind == "leaf":
        _sprig(rng, image, center, size, np.deg2rad(angle))
    elif kind == "card":
        shade = color(pick(rng, ("#faf7f0", "#e9c7c7", "#cfd9e6", "#d9b97a"))).tolist()
        corners = cv2.boxPoints((center, (size * 2.2, size * 1.4), angle)).astype(np.int32)
        cv2.fillPoly(image, [corners], shade, cv2.LINE_AA)
    elif kind == "beads":
        shade = color(pick(rng, ("#f4ead9", "#c9a24c", "#f2c4cf", "#e2e6ea"))).tolist()
        for _ in range(12):
            at = (center[0] + int(rng.normal(0, size)), center[1] + int(rng.normal(0, size)))
            cv2.circle(image, at, 3 + size // 12, shade, -1, cv2.LINE_AA)
    else:
        shade = color(pick(rng, ("#fbfaf6", "#efe3d6", "#cf8f7f"))).tolist()
        thick = -1 if kind == "pad" else max(size // 6, 2)
        cv2.circle(image, center, size // 2 + 4, shade, thick, cv2.LINE_AA)


def _sprig(
    rng: np.random.Generator, image: Image, center: tuple[int, int], size: int, turn: float
) -> None:
    along = np.array([np.cos(turn), np.sin(turn)])
    across = np.array([-along[1], along[0]])
    for step in range(8):
        side = 1 if step % 2 else -1
        at = np.array(center) + along * step * size * 0.22 + across * side * size * 0.3
        shade = (color("#5d8a55") * rng.uniform(0.7, 1.2)).clip(0, 1).tolist()
        lean = float(np.rad2deg(turn)) + side * 50
        axes = (int(size * 0.36) + 2, int(size * 0.13) + 1)
        cv2.ellipse(image, (int(at[0]), int(at[1])), axes, lean, 0, 360, shade, -1, cv2.LINE_AA)


def _lit_from_side(rng: np.random.Generator, image: Image) -> Image:
    height, width = image.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = float(rng.uniform(0, 2 * np.pi))
    ramp = (x / width - 0.5) * np.cos(angle) + (y / height - 0.5) * np.sin(angle)
    light = 1 + float(rng.uniform(0.1, 0.4)) * ramp
    if rng.random() < 0.25:
        stripes = np.sin((x + 0.6 * y) / width * float(rng.uniform(14, 30)))
        light *= 1 + 0.12 * np.clip(stripes * 3, -1, 1)
    return np.asarray((image * light[:, :, None]).clip(0, 1), np.float32)


def _shelf(rng: np.random.Generator, height: int, width: int) -> Image:
    image = plaster(rng, height, width)
    for level in range(2):
        base = int(height * (0.45 + 0.5 * level))
        at = 0
        while at < width:
            wide = int(rng.integers(12, 50))
            tall = int(height * rng.uniform(0.15, 0.36))
            shade = rng.uniform(0.2, 0.95, 3).astype(np.float32)
            image[max(base - tall, 0) : base, at : at + wide] = shade * 0.5 + shade.mean() * 0.5
            at += wide + int(rng.integers(2, 26))
        image[base : base + 5] = color("#7a5a3c")
    return image


def _curtain(rng: np.random.Generator, height: int, width: int) -> Image:
    x = np.arange(width, dtype=np.float32)[None] + 12 * noise(rng, height, width, 60)
    folds = 0.5 + 0.5 * np.sin(x / float(rng.uniform(5, 14)))
    base = color(pick(rng, ("#e6dccb", "#8c9aa6", "#c7a3a0", "#f2efe8", "#6f7f6a")))
    return shaded(base, base * 0.6, np.asarray(folds, np.float32))


def _window(rng: np.random.Generator, height: int, width: int) -> Image:
    image = plaster(rng, height, width)
    left, right = sorted(int(at) for at in rng.uniform(0.05, 0.95, 2) * width)
    sky = shaded(color("#f7fbff"), color("#9fc3de"), noise(rng, height, width, 50))
    image[:, left:right] = sky[:, left:right]
    for bar in (left, (left + right) // 2, right):
        image[:, max(bar - 3, 0) : bar + 3] = color("#f3f1ec")
    return image


_WALLS: dict[str, Callable[[np.random.Generator, int, int], Image]] = {
    "plaster": plaster,
    "tiles": tiles,
    "shelf": _shelf,
    "curtain": _curtain,
    "window": _window,
}
