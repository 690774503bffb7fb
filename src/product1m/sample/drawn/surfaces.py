"""Procedural surfaces: noise, wood, stone, cloth, tiles, plaster. Colors run from 0 to 1."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import cv2
import numpy as np
from jaxtyping import Float32

T = TypeVar("T")
Image = Float32[np.ndarray, "H W 3"]
Plane = Float32[np.ndarray, "H W"]
Color = Float32[np.ndarray, "3"]

_CLOTH_COLORS = (
    "#e8dcd0", "#d9c3c6", "#c3d1da", "#f2ede4", "#8fa596", "#b5886e", "#5b6a80", "#e6d5e6",
)  # fmt: skip
_WALL_COLORS = (
    "#ece6dd", "#d8dfe2", "#e8d3cc", "#c5cfc0", "#f4f1ea", "#b9b2c6", "#c9a58f", "#8ea3ad",
)  # fmt: skip


def color(hex_code: str) -> Color:
    """A hex color from 0 to 1."""
    return np.array([int(hex_code[at : at + 2], 16) for at in (1, 3, 5)], np.float32) / 255


def noise(
    rng: np.random.Generator, height: int, width: int, cell: float, stretch: float = 1.0
) -> Plane:
    """Smooth noise from 0 to 1; `cell` in pixels, longer along x by `stretch`."""
    rows, columns = int(height / cell) + 3, int(width / cell / stretch) + 3
    grid = rng.random((rows, columns), np.float32)
    plane = cv2.resize(
        grid, (int(columns * cell * stretch), int(rows * cell)), interpolation=cv2.INTER_CUBIC
    )
    return np.asarray(plane[:height, :width].clip(0, 1))


def fractal(rng: np.random.Generator, height: int, width: int, cell: float) -> Plane:
    """Noise of four octaves, from 0 to 1."""
    octaves = [noise(rng, height, width, max(2.0, cell / 2**k)) / 2**k for k in range(4)]
    return np.asarray(sum(octaves) / 1.875, np.float32)


def shaded(base: Color, dark: Color, share: Plane) -> Image:
    """`base` turning to `dark` where `share` is 1."""
    return np.asarray(base + (dark - base) * share[:, :, None], np.float32)


def wood(rng: np.random.Generator, height: int, width: int) -> Image:
    """Planks along x."""
    base = color(pick(rng, ("#c89f6d", "#8a5a36", "#e0c49c", "#5e4030", "#b58a5a", "#d8cbb8")))
    warp = noise(rng, height, width, 40, 6) * 26
    y = np.arange(height, dtype=np.float32)[:, None] + warp
    grain = 0.5 + 0.5 * np.sin(y * float(rng.uniform(0.5, 0.9)))
    fine = noise(rng, height, width, 2.0, 30)
    image = shaded(base, base * 0.6, 0.3 * grain + 0.45 * fine)
    plank = int(rng.integers(60, 140))
    for top in range(int(rng.integers(plank)), height, plank):
        image[top : top + 2] *= 0.55
        image[top : top + plank] *= rng.uniform(0.9, 1.06)
    return image.clip(0, 1)


def marble(rng: np.random.Generator, height: int, width: int) -> Image:
    """Stone with veins."""
    base, vein = pick(
        rng,
        (
            ("#f1efec", "#9a9a9e"),
            ("#e9ded2", "#a98f76"),
            ("#34383a", "#cfd4d2"),
            ("#dfe9e6", "#7f9a96"),
        ),
    )
    field = fractal(rng, height, width, 120)
    veins = np.exp(-np.abs(np.sin(field * float(rng.uniform(9, 15)))) * 14)
    return shaded(color(base), color(vein), 0.7 * veins + 0.12 * fractal(rng, height, width, 30))


def terrazzo(rng: np.random.Generator, height: int, width: int) -> Image:
    """Chips of stone in cement."""
    image = np.full((height, width, 3), color(pick(rng, ("#efece6", "#e6dfd6", "#d9e0df"))))
    for _ in range(height * width // 500):
        center = (int(rng.integers(width)), int(rng.integers(height)))
        axes = (int(rng.integers(2, 8)), int(rng.integers(1, 6)))
        chip = color(pick(rng, ("#b9775c", "#6d7f86", "#d8b98c", "#8f9b7a", "#4b4b4b", "#c7c0b5")))
        cv2.ellipse(image, center, axes, int(rng.integers(180)), 0, 360, chip.tolist(), -1)
    return image


def cloth(rng: np.random.Generator, height: int, width: int) -> Image:
    """Woven cloth with soft folds."""
    base = color(pick(rng, _CLOTH_COLORS))
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    angle = float(rng.uniform(0, np.pi))
    along = x * np.cos(angle) + y * np.sin(angle) + 60 * noise(rng, height, width, 90)
    folds = 0.5 + 0.5 * np.sin(along / float(rng.uniform(9, 28)))
    folds *= noise(rng, height, width, 110)
    weave = 0.5 + 0.25 * (np.sin(x * 1.9) + np.sin(y * 1.9))
    return shaded(base, base * 0.55, 0.75 * folds + 0.12 * weave).clip(0, 1)


def tiles(rng: np.random.Generator, height: int, width: int) -> Image:
    """Glazed tiles with grout."""
    base = color(pick(rng, ("#f0f2f1", "#bcd3d6", "#d9e3cf", "#e9d8c8", "#39576a", "#c98f77")))
    grout = color(pick(rng, ("#c9c6c0", "#f6f5f2", "#8c8a86")))
    tall, wide = int(rng.integers(22, 60)), int(rng.integers(30, 90))
    image = np.empty((height, width, 3), np.float32)
    for row, top in enumerate(range(0, height, tall)):
        shift = -(wide // 2) * (row % 2)
        for left in range(shift, width, wide):
            x0 = max(left, 0)
            image[top : top + tall, x0 : left + wide] = base * rng.uniform(0.92, 1.04)
            image[top : top + 2, x0 : left + wide] = grout
            image[top : top + tall, x0 : max(left + 2, 0)] = grout
    return image.clip(0, 1)


def plaster(rng: np.random.Generator, height: int, width: int) -> Image:
    """A painted wall."""
    base = color(pick(rng, _WALL_COLORS))
    return shaded(base, base * 0.85, fractal(rng, height, width, 60)).clip(0, 1)


def slate(rng: np.random.Generator, height: int, width: int) -> Image:
    """Dark rough stone."""
    base = color(pick(rng, ("#4a4d50", "#3a3532", "#5c6264")))
    rough = 0.6 * fractal(rng, height, width, 16) + 0.4 * rng.random((height, width), np.float32)
    return shaded(base * 1.25, base * 0.6, rough)


SURFACES: dict[str, Callable[[np.random.Generator, int, int], Image]] = {
    "wood": wood,
    "marble": marble,
    "terrazzo": terrazzo,
    "cloth": cloth,
    "tiles": tiles,
    "plaster": plaster,
    "slate": slate,
}


def receding(texture: Image, height: int, width: int, narrowing: float) -> Image:
    """A flat texture seen at an angle: its far edge is `narrowing` times its near edge."""
    rows, columns = texture.shape[:2]
    spread = width * (1 / narrowing - 1) / 2
    near = np.array([[-spread, height], [width + spread, height]], np.float32)
    source = np.array([[0, 0], [columns, 0], [columns, rows], [0, rows]], np.float32)
    target = np.array([[0, 0], [width, 0], near[1], near[0]], np.float32)
    matrix = cv2.getPerspectiveTransform(source, target)
    return np.asarray(
        cv2.warpPerspective(texture, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
    )


def blurred(image: Image, sigma: float) -> Image:
    """Gaussian blur; a strong one is computed at reduced size."""
    if sigma < 4:
        return np.asarray(cv2.GaussianBlur(image, (0, 0), max(sigma, 0.1)))
    shrink = 2.0 / sigma
    size = (image.shape[1], image.shape[0])
    small = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    return np.asarray(
        cv2.resize(cv2.GaussianBlur(small, (0, 0), 2), size, interpolation=cv2.INTER_CUBIC)
    )


def pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    """A choice at random."""
    return choices[int(rng.integers(len(choices)))]
