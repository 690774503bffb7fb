"""Photos of rooms without products: drawn walls, furniture, windows, lamps and plants (ours).

They teach a detector, which otherwise sees products on only a few backgrounds, what else stands out
in a photo. They are not meant to look real; they vary more than real rooms do.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, Float32

from product1m.data.photos import Photo
from product1m.synthesis.backgrounds import draw_background, draw_plain

_SURFACE_SHARE = 1 / 3
"""Share of drawn photos that show a bare surface instead of a room."""
_NUM_PIECES = (4, 18)
"""Pieces of furniture in a room."""
_PIECE = (0.08, 0.55)
"""Size of a piece, relative to the room's shorter side."""
_TILE_PX = 64

_Image = Float32[np.ndarray, "H W 3"]
_Color = Float[np.ndarray, "3"]


def draw_interior(width: int, height: int, rng: np.random.Generator) -> Photo:
    """A room with furniture, or a bare surface; it shows no product."""
    if rng.random() < _SURFACE_SHARE:
        draw = draw_background if rng.random() < 0.5 else draw_plain
        return draw(width, height, rng)
    image = _walls(width, height, rng)
    painters = (_cuboid, _cuboid, _window, _picture, _sofa, _plant, _lamp, _rails, _cupboard)
    for _ in range(int(rng.integers(*_NUM_PIECES))):
        side = rng.uniform(*_PIECE) * min(height, width)
        left, top = rng.uniform(-0.1, 0.95) * width, rng.uniform(0, 0.9) * height
        size = side * rng.uniform(0.4, 2), side * rng.uniform(0.4, 1.6)
        painters[int(rng.integers(len(painters)))](image, left, top, *size, rng)
    return np.asarray(np.clip(image, 0, 255), np.uint8)


def _walls(width: int, height: int, rng: np.random.Generator) -> _Image:
    """Five sides of a room in perspective."""
    image = np.zeros((height, width, 3), np.float32)
    middle = rng.uniform(0.2, 0.8) * width, rng.uniform(0.25, 0.6) * height
    across, up = rng.uniform(0.25, 0.8) * width / 2, rng.uniform(0.3, 0.7) * height / 2
    far = [(-across, -up), (across, -up), (across, 1.2 * up), (-across, 1.2 * up)]
    near = [(6 * x, 6 * y) for x, y in far]
    color = _draw_color(rng)
    for side in range(4):
        following = (side + 1) % 4
        corners = [far[side], far[following], near[following], near[side]]
        is_floor = side == 2
        texture = _material(rng, None if is_floor else color) * rng.uniform(0.6, 1.2)
        _fill(image, _moved(corners, middle), texture)
    _fill(image, _moved(far, middle), _material(rng, color))
    return image


def _cuboid(
    image: _Image, left: float, top: float, width: float, height: float, rng: np.random.Generator
) -> None:
    """A box-shaped piece: front, one side and the top."""
    color = _draw_color(rng)
    across, up = rng.uniform(-0.4, 0.4) * width, -rng.uniform(0.02, 0.3) * height
    right, bottom = left + width, top + height
    edge = right if across > 0 else left
    side = [(edge, top), (edge + across, top + up), (edge + across, bottom + up), (edge, bottom)]
    lid = [(left + across, top + up), (right + across, top + up), (right, top), (left, top)]
    _fill(image, side, _material(rng, color) * rng.uniform(0.5, 0.9))
    _fill(image, lid, _material(rng, color) * rng.uniform(0.9, 1.25))
    _cupboard(image, left, top, width, height, rng, color)


def _cupboard(
    image: _Image,
    left: float,
    top: float,
    width: float,
    height: float,
    rng: np.random.Generator,
    color: _Color | None = None,
) -> None:
    """A front of doors, drawers or panes."""
    color = _draw_color(rng) if color is None else color
    _fill(image, _rectangle(left, top, width, height), _material(rng, color))
    rows, columns = (int(number) for number in rng.integers(1, 5, 2))
    is_filled, knob = rng.random() < 0.35, rng.choice([0.1, 0.5, 0.9], 2)
    for row in range(rows):
        for column in range(columns):
            margin = rng.uniform(0.03, 0.12)
            x = left + width * (column + margin) / columns
            y = top + height * (row + margin) / rows
            across, down = width / columns * (1 - 2 * margin), height / rows * (1 - 2 * margin)
            if is_filled:
                _fill(image, _rectangle(x, y, across, down), _material(rng))
            else:
                frame = _levels(color * rng.choice([0.5, 0.7, 1.3]))
                corners = (round(x), round(y)), (round(x + across), round(y + down))
                cv2.rectangle(image, *corners, frame, int(rng.integers(1, 3)), cv2.LINE_AA)
            center = round(x + across * knob[0]), round(y + down * knob[1])
            radius = 1 + round(0.04 * max(1.0, min(across, down)))
            cv2.circle(image, center, radius, _levels(_draw_color(rng)), -1, cv2.LINE_AA)


def _window(
    image: _Image, left: float, top: float, width: float, height: float, rng: np.random.Generator
) -> None:
    """Bright panes in a frame."""
    _fill(image, _rectangle(left - 3, top - 3, width + 6, height + 6), _material(rng))
    rows, columns = int(rng.integers(1, 4)), int(rng.integers(1, 5))
    light = rng.uniform(180, 255)
    for row in range(rows):
        for column in range(columns):
            pane = _rectangle(
                left + width * column / columns + 3,
                top + height * row / rows + 3,
                max(2.0, width / columns - 6),
                max(2.0, height / rows - 6),
            )
            _fill(image, pane, _material(rng, light + rng.normal(0, 10, 3)))


def _picture(
    image: _Image, left: float, top: float, width: float, height: float, rng: np.random.Generator
) -> None:
    """A framed picture, or a screen."""
    border = rng.uniform(2, 10)
    frame = _rectangle(left - border, top - border, width + 2 * border, height + 2 * border)
    _fill(image, frame, _material(rng))
    _fill(image, _rectangle(left, top, width, height), _material(rng))
    if rng.random() < 0.5:
        _plant(image, left + width / 4, top + height / 4, width / 2, height / 2, rng)


def _sofa(
    image: _Image, left: float, top: float, width: float, height: float, rng: np.random.Generator
) -> None:
    """A sofa, a bed or a chair: rounded parts with cushions."""
    color = _draw_color(rng)
    _rounded(image, (left, top, width, 0.6 * height), color * 0.9, rng)
    _rounded(image, (left, top + 0.45 * height, width, 0.5 * height), color * 1.05, rng)
    for _ in range(int(rng.integers(4))):
        x, y = left + width * rng.uniform(0, 0.75), top + height * rng.uniform(0.1, 0.4)
        size = width * rng.uniform(0.12, 0.3), height * rng.uniform(0.2, 0.45)
        _rounded(image, (x, y, *size), _draw_color(rng), rng)


def _plant(
    image: _Image, left: float, top: float, width: float, height: float, rng: np.random.Generator
) -> None:
    """Ellipses of one color, like leaves, cloth or distant people."""
    color = _draw_color(rng)
    for _ in range(int(rng.integers(1, 30))):
        center = (
            round(left + width * (0.5 + rng.normal(0, 0.2))),
            round(top + height * (0.5 + rng.normal(0, 0.2))),
        )
        reach = rng.uniform(0.05, 0.3)
        axes = (
            max(1, round(width * reach)),
            max(1, round(height * reach * rng.uniform(0.3, 1))),
        )
        shade, turn = _levels(color * rng.uniform(0.6, 1.3)), float(rng.uniform(0, 180))
        cv2.ellipse(image, center, axes, turn, 0, 360, shade, -1, cv2.LINE_AA)


def _lamp(
    image: _Image, left: float, top: float, width: float, height: float, rng: np.random.Generator
) -> None:
    """A shade on a pole, or hanging from the ceiling."""
    middle, shade = left + width / 2, 0.4 * height
    end = round(middle), round(top + rng.choice([-1.5, 2]) * height)
    thickness = max(1, round(0.03 * height))
    pole = _levels(_draw_color(rng))
    cv2.line(image, (round(middle), round(top)), end, pole, thickness, cv2.LINE_AA)
    above, below = rng.uniform(0.1, 0.3) * width, rng.uniform(0.2, 0.5) * width
    corners = [
        (middle - above, top),
        (middle + above, top),
        (middle + below, top + shade),
        (middle - below, top + shade),
    ]
    _fill(image, corners, _material(rng))


def _rails(
    image: _Image, left: float, top: float, width: float, height: float, rng: np.random.Generator
) -> None:
    """Parallel bars: a radiator, blinds, a banister."""
    color, thickness = _levels(_draw_color(rng)), int(rng.integers(1, 6))
    number, is_upright = int(rng.integers(2, 10)), rng.random() < 0.5
    for bar in range(number):
        if is_upright:
            x = round(left + width * bar / number)
            start, end = (x, round(top)), (x, round(top + height))
        else:
            y = round(top + height * bar / number)
            start, end = (round(left), y), (round(left + width), y)
        cv2.line(image, start, end, color, thickness, cv2.LINE_AA)


def _material(rng: np.random.Generator, color: _Color | None = None) -> _Image:
    """A tile of a surface: plain, grained, striped or dotted, unevenly lit."""
    side = _TILE_PX
    image = np.empty((side, side, 3), np.float32)
    image[:] = _draw_color(rng) if color is None else color
    kind, depth = int(rng.integers(7)), float(rng.uniform(3, 18))
    if kind == 1:
        image += _grain(side, (2, 22), rng)[..., None] * depth
    elif kind == 2:
        image += _grain(side, (22, 2), rng)[..., None] * depth
    elif kind == 3:
        image += (_grain(side, (12, 12), rng) + _grain(side, (4, 4), rng))[..., None] * depth
    elif kind == 4:
        period = rng.uniform(4, 30)
        stripes = np.arange(side) % period < period * rng.uniform(0.1, 0.6)
        image[:, stripes] += rng.uniform(-50, 50)
        if rng.random() < 0.4:
            image[stripes] += rng.uniform(-50, 50)
    elif kind == 5:
        dots = _draw_color(rng)
        for x, y, radius in rng.uniform(0, 1, (int(rng.integers(4, 30)), 3)):
            center = round(x * side), round(y * side)
            cv2.circle(image, center, 1 + round(0.12 * side * radius), _levels(dots), -1)
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j].astype(np.float32)
    light = 1 + rng.uniform(0, 0.4) * (x * np.cos(angle) + y * np.sin(angle)) / 1.4
    return np.asarray(image * light[..., None], np.float32)


def _grain(
    side: int, cells: tuple[int, int], rng: np.random.Generator
) -> Float32[np.ndarray, "S S"]:
    coarse = rng.standard_normal(cells[::-1], np.float32)
    return np.asarray(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC))


def _fill(image: _Image, corners: Sequence[tuple[float, float]], texture: _Image) -> None:
    """Stretch a tile over a quadrilateral; what lies outside the image is cut off."""
    points = np.asarray(corners, np.float32)
    height, width = image.shape[:2]
    left, top = np.clip(np.floor(points.min(axis=0)), 0, (width, height)).astype(int)
    right, bottom = np.clip(np.ceil(points.max(axis=0)) + 1, 0, (width, height)).astype(int)
    if right - left < 2 or bottom - top < 2:
        return
    inside = points - np.array([left, top], np.float32)
    side = texture.shape[0]
    tile = np.array([[0, 0], [side, 0], [side, side], [0, side]], np.float32)
    matrix = cv2.getPerspectiveTransform(tile, inside)
    size = (int(right - left), int(bottom - top))
    warped = cv2.warpPerspective(texture, matrix, size, borderMode=cv2.BORDER_REPLICATE)
    mask = np.zeros(size[::-1], np.uint8)
    cv2.fillConvexPoly(mask, np.rint(inside).astype(np.int32), 255, cv2.LINE_AA)
    window = image[top:bottom, left:right]
    alpha = (mask / np.float32(255))[..., None]
    window += alpha * (warped - window)


def _rounded(
    image: _Image,
    box: tuple[float, float, float, float],
    color: _Color,
    rng: np.random.Generator,
) -> None:
    """A soft part of furniture, darker at its edge; `box` is left, top, width and height."""
    height, width = image.shape[:2]
    left, top = max(0, round(box[0])), max(0, round(box[1]))
    right, bottom = min(width, round(box[0] + box[2])), min(height, round(box[1] + box[3]))
    if right - left < 4 or bottom - top < 4:
        return
    rows, columns = bottom - top, right - left
    radius = max(1, round(min(rows, columns) * rng.uniform(0.1, 0.45)))
    mask = np.zeros((rows, columns), np.uint8)
    mask[radius : rows - radius, radius : columns - radius] = 255
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    mask = np.asarray(cv2.dilate(mask, disc), np.uint8)
    inner = cv2.GaussianBlur(mask, (0, 0), max(1.0, 0.5 * radius)) / np.float32(255)
    surface = cv2.resize(_material(rng, color), (columns, rows)) * (0.55 + 0.45 * inner[..., None])
    window = image[top:bottom, left:right]
    window += (mask / np.float32(255))[..., None] * (surface - window)


def _draw_color(rng: np.random.Generator) -> _Color:
    """Any color, often a gray."""
    if rng.random() < 0.35:
        return np.clip(rng.uniform(20, 250) + rng.normal(0, 8, 3), 0, 255)
    pixel = np.array([[rng.uniform((0, 10, 40), (180, 150, 250))]], np.uint8)
    return np.asarray(cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0], np.float64)


def _levels(color: _Color) -> list[float]:
    return [float(level) for level in np.clip(color, 0, 255)]


def _rectangle(left: float, top: float, width: float, height: float) -> list[tuple[float, float]]:
    right, bottom = left + width, top + height
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _moved(
    corners: Sequence[tuple[float, float]], middle: tuple[float, float]
) -> list[tuple[float, float]]:
    return [(middle[0] + x, middle[1] + y) for x, y in corners]
