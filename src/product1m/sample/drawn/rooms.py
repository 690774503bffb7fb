"""Rooms, shelves and desks without products: backgrounds for synthesis, unlike a query's scene."""

from collections.abc import Callable

import cv2
import numpy as np

from product1m.data.photos import Photo
from product1m.sample.drawn.surfaces import (
    SURFACES,
    Image,
    blurred,
    color,
    noise,
    pick,
    receding,
    shaded,
)

SIDE_PX = 384
"""Longer side of a background (ours)."""


def render_room(seed: int, number: int) -> Photo:
    """Background number `number`."""
    rng = np.random.default_rng([seed, 4, number])
    kinds: tuple[Callable[[np.random.Generator, int, int], Image], ...] = (
        _interior, _bookcase, _interior, _desk_from_above, _street, _interior,
    )  # fmt: skip
    height = int(pick(rng, (288, 320, 384)))
    image = kinds[number % len(kinds)](rng, height, SIDE_PX)
    gain = np.array([1 + rng.normal(0, 0.05), 1, 1 + rng.normal(0, 0.05)], np.float32)
    image = image * gain * float(rng.uniform(0.75, 1.1))
    image = image + rng.normal(0, 0.012, image.shape).astype(np.float32)
    return np.asarray((image * 255).clip(0, 255), np.uint8)


def _interior(rng: np.random.Generator, height: int, width: int) -> Image:
    """A room's back wall, floor, a side wall, a window or picture, and furniture."""
    edge = int(height * rng.uniform(0.55, 0.75))
    wall = color(
        pick(rng, ("#e3ddd2", "#b8c4c9", "#d9c2b4", "#a9b59f", "#f0ece4", "#7f8fa3", "#cdb7cf"))
    )
    image = shaded(wall, wall * 0.8, noise(rng, height, width, 150))
    texture = SURFACES[pick(rng, ("wood", "tiles", "cloth", "wood"))](rng, 240, 480)
    image[edge:] = receding(texture, height - edge, width, 0.4)
    corner = int(width * rng.uniform(0.08, 0.3))
    side = np.array(
        [[0, 0], [corner, 0], [corner, edge], [0, min(height, int(edge * 1.25))]], np.int32
    )
    cv2.fillPoly(image, [side], (wall * 0.78).tolist(), cv2.LINE_AA)
    _wall_decor(rng, image, corner, edge)
    image[edge - 4 : edge] = (image[edge - 4 : edge] + 1) / 2
    for _ in range(int(rng.integers(2, 5))):
        _furniture(rng, image, edge)
    ramp = np.linspace(rng.uniform(0.75, 1.15), rng.uniform(0.75, 1.15), width, dtype=np.float32)
    return blurred((image * ramp[None, :, None]).clip(0, 1), float(rng.uniform(0.6, 1.4)))


def _wall_decor(rng: np.random.Generator, image: Image, corner: int, edge: int) -> None:
    width = image.shape[1]
    for _ in range(int(rng.integers(1, 4))):
        left = int(rng.integers(corner, max(width - 40, corner + 1)))
        top = int(edge * rng.uniform(0.08, 0.35))
        wide, tall = int(width * rng.uniform(0.12, 0.3)), int(edge * rng.uniform(0.25, 0.5))
        right, bottom = min(left + wide, width - 2), top + tall
        if right - left < 12:
            continue
        inside = shaded(
            color(pick(rng, ("#cfe3f2", "#f2e6c9", "#9bb0a0", "#d8a892"))),
            color(pick(rng, ("#5f86a8", "#a5673f", "#51604f", "#ffffff"))),
            noise(rng, bottom - top, right - left, 25),
        )
        image[top:bottom, left:right] = inside
        frame = color(pick(rng, ("#f7f5f0", "#3a2f28", "#b08d57"))).tolist()
        cv2.rectangle(image, (left, top), (right, bottom), frame, 4)


def _furniture(rng: np.random.Generator, image: Image, edge: int) -> None:
    """A box with a front, a top and a shadow: sofa, cabinet, table, bed."""
    height, width = image.shape[:2]
    tint = color(
        pick(rng, ("#8b6b4e", "#c9c2b8", "#4f5d6b", "#a65f4b", "#d9cfae", "#6c7a5f", "#332f33"))
    )
    wide, tall = int(width * rng.uniform(0.15, 0.45)), int(height * rng.uniform(0.1, 0.3))
    left = int(rng.uniform(-0.1, 0.9) * width)
    base = int(edge + (height - edge) * rng.uniform(0.1, 0.8))
    top, depth = base - tall, int(tall * rng.uniform(0.15, 0.4))
    slab = np.array([[left, top], [left + depth, top - depth], [left + wide - depth, top - depth],
                     [left + wide, top]], np.int32)  # fmt: skip
    shade = np.zeros((height, width), np.float32)
    cv2.ellipse(shade, (left + wide // 2, base), (wide // 2, 6), 0, 0, 360, 1.0, -1)
    image *= 1 - 0.6 * cv2.GaussianBlur(shade, (0, 0), 5)[:, :, None]
    cv2.rectangle(image, (left, top), (left + wide, base), (tint * 0.85).tolist(), -1)
    cv2.fillPoly(image, [slab], np.minimum(tint * 1.15, 1).tolist(), cv2.LINE_AA)
    for part in range(1, int(rng.integers(2, 5))):
        x = left + wide * part // 4
        cv2.line(image, (x, top + 3), (x, base - 2), (tint * 0.6).tolist(), 2, cv2.LINE_AA)


def _bookcase(rng: np.random.Generator, height: int, width: int) -> Image:
    """Shelves across the frame with books and boxes."""
    board = color(pick(rng, ("#6f4d33", "#e8e4dc", "#3b3b40", "#b98b5e")))
    image = np.full((height, width, 3), board * 0.55, np.float32)
    levels = int(rng.integers(3, 5))
    for level in range(levels):
        base = height * (level + 1) // levels
        room = height // levels - 10
        at = int(rng.integers(0, 20))
        while at < width:
            thick = int(rng.integers(6, 26))
            tall = int(room * rng.uniform(0.45, 0.95))
            shade = color(
                pick(
                    rng,
                    ("#8c2f39", "#e6d9bd", "#28536b", "#7f9172", "#d1a054", "#56505e", "#c9d3d8"),
                )
            )
            image[base - 8 - tall : base - 8, at : at + thick] = shade * rng.uniform(0.7, 1.1)
            image[base - 8 - tall : base - 8, at : at + 2] *= 0.6
            at += thick + (0 if rng.random() < 0.8 else int(rng.integers(10, 50)))
        image[base - 8 : base] = board
    return blurred(image.clip(0, 1), float(rng.uniform(0.8, 1.8)))


def _desk_from_above(rng: np.random.Generator, height: int, width: int) -> Image:
    """A desk with papers, seen at an angle."""
    image = receding(
        SURFACES[pick(rng, ("plaster", "wood", "slate"))](rng, 300, 500), height, width, 0.7
    )
    for _ in range(int(rng.integers(2, 6))):
        center = (float(rng.uniform(0, width)), float(rng.uniform(0, height)))
        size = (float(rng.uniform(50, 150)), float(rng.uniform(40, 110)))
        corners = cv2.boxPoints((center, size, float(rng.uniform(-40, 40)))).astype(np.int32)
        cv2.fillPoly(image, [corners + 4], (0.25, 0.24, 0.22), cv2.LINE_AA)
        sheet = color(pick(rng, ("#fbfaf5", "#e9eef2", "#f1e2b8", "#3d4a57", "#c97b63")))
        cv2.fillPoly(image, [corners], sheet.tolist(), cv2.LINE_AA)
        start, end = corners[0], corners[1]
        for line in range(1, 6):
            shift = (corners[3] - corners[0]) * line // 7
            cv2.line(image, tuple(map(int, start + shift)), tuple(map(int, end + shift)),
                     (sheet * 0.75).tolist(), 1, cv2.LINE_AA)  # fmt: skip
    return blurred(image.clip(0, 1), 0.8)


def _street(rng: np.random.Generator, height: int, width: int) -> Image:
    """Facades, trees and sky, out of focus."""
    edge = int(height * rng.uniform(0.6, 0.8))
    image = shaded(color("#bcd7ee"), color("#f4f6f8"), noise(rng, height, width, 90))
    at = 0
    while at < width:
        wide, tall = int(rng.integers(40, 110)), int(edge * rng.uniform(0.3, 0.9))
        wall = color(pick(rng, ("#b9876a", "#d8cfc0", "#8b98a3", "#c7b299", "#7d6a5c")))
        image[edge - tall : edge, at : at + wide] = wall
        for y in range(edge - tall + 8, edge - 12, 22):
            for x in range(at + 6, min(at + wide, width) - 10, 18):
                image[y : y + 12, x : x + 9] = wall * rng.uniform(0.35, 0.7)
        at += wide
    image[edge:] = receding(SURFACES["slate"](rng, 120, 400), height - edge, width, 0.4)
    for _ in range(int(rng.integers(10, 40))):
        center = (int(rng.integers(width)), int(edge - rng.uniform(0, 0.4) * edge))
        leaf = (color("#4d7a45") * rng.uniform(0.6, 1.2)).clip(0, 1).tolist()
        cv2.circle(image, center, int(rng.integers(8, 26)), leaf, -1, cv2.LINE_AA)
    return blurred(image, float(rng.uniform(1.5, 3.5)))
