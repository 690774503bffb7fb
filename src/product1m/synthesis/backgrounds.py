"""Backgrounds on which products are pasted: photos from a folder, or drawn surfaces."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from jaxtyping import Float32

from product1m.data.intake import normalize_photo, unrestricted_pillow
from product1m.data.limits import PhotoLimits
from product1m.data.photo_sources import EXTENSIONS
from product1m.data.photos import Photo, decode_photo, resize_photo
from product1m.errors import DatasetError, PhotoError, StorageError, TooLargeError
from product1m.storage.folder import Folder
from product1m.storage.opening import open_file, open_store

_LIMITS = PhotoLimits(
    max_side_px=0,
    min_side_px=16,
    max_pixels=50_000_000,
    max_bytes=32 * 1024 * 1024,
    max_jpeg_scans=32,
)
"""Limits of a background photo, except its longest side, which follows the scene's (ours)."""
_MAX_ZOOM = 1.4
"""A background is enlarged up to this factor beyond filling its scene (ours)."""


def find_backgrounds(uri: str) -> list[str]:
    """Addresses of the photos below a folder or prefix, sorted by name; none for an empty address.

    Raises StorageError if the address cannot be read, and DatasetError if it holds no photos or a
    link that leads out of it.
    """
    if not uri:
        return []
    store = open_store(uri)
    if isinstance(store, Folder) and not store.root.is_dir():
        raise StorageError(
            f"{store.root}: expected a folder of background photos, but there is no such folder"
        )
    paths = [PurePosixPath(file.name) for file in store.files()]
    photos = sorted(path for path in paths if path.suffix.lower() in EXTENSIONS)
    if not photos:
        raise DatasetError(
            f"{uri}: expected background photos ({', '.join(EXTENSIONS)}), got none; "
            "leave the address empty to use drawn backgrounds"
        )
    if isinstance(store, Folder):
        _require_no_way_out(store.root, photos)
    return [store.address(str(path)) for path in photos]


def _require_no_way_out(root: Path, photos: Sequence[PurePosixPath]) -> None:
    """DatasetError if a photo is a link to a file outside the folder."""
    inside = root.resolve()
    for photo in photos:
        real = (root / photo).resolve()
        if not real.is_relative_to(inside):
            raise DatasetError(
                f"{root / photo}: expected a background photo inside the folder, got a link to "
                f"{real}; copy the photo, or name its folder as the folder of backgrounds"
            )


def read_background(
    addresses: Sequence[str], width: int, height: int, rng: np.random.Generator
) -> tuple[Photo | None, list[str]]:
    """The first readable photo, cropped to the scene's size, and the damaged ones before it.

    The photo is None if all are damaged.
    """
    limits = replace(_LIMITS, max_side_px=2 * max(width, height))
    damaged: list[str] = []
    for address in addresses:
        store, name = open_file(address)
        try:
            with unrestricted_pillow():
                stored = normalize_photo(store.read(name, limits.max_bytes), limits)
        except (PhotoError, TooLargeError):
            damaged.append(address)
            continue
        return _cropped(decode_photo(stored.encoded, address), width, height, rng), damaged
    return None, damaged


def draw_plain(width: int, height: int, rng: np.random.Generator) -> Photo:
    """A plain background: one color, a gradient, noise, or a drawn surface."""
    kind = int(rng.integers(4))
    if kind == 0:
        gray = rng.random() < 0.5
        color = int(rng.choice([0, 20, 128, 240, 250, 255])) if gray else rng.integers(0, 256, 3)
        return np.full((height, width, 3), color, np.uint8)
    if kind == 1:
        return np.asarray(_gradient(width, height, rng).clip(0, 255), np.uint8)
    if kind == 2:
        noise = rng.normal(rng.uniform(60, 220), rng.uniform(3, 60), (height, width, 3))
        return np.asarray(noise.clip(0, 255), np.uint8)
    return draw_background(width, height, rng)


def draw_background(width: int, height: int, rng: np.random.Generator) -> Photo:
    """A drawn surface: gradient, plaster, planks, tiles or blurred clutter, unevenly lit (ours)."""
    painters = (_gradient, _plaster, _planks, _tiles, _clutter)
    image = painters[int(rng.integers(len(painters)))](width, height, rng)
    light = _ramp(width, height, rng)[..., None] * rng.uniform(0, 0.35)
    return np.asarray(np.clip(image * (1.1 - light), 0, 255).astype(np.uint8))


def _cropped(photo: Photo, width: int, height: int, rng: np.random.Generator) -> Photo:
    fill = max(width / photo.shape[1], height / photo.shape[0])
    grown = resize_photo(photo, fill * rng.uniform(1, _MAX_ZOOM))
    # Rounding can make it a pixel too small.
    rows, columns = max(grown.shape[0], height), max(grown.shape[1], width)
    if (rows, columns) != grown.shape[:2]:
        grown = np.asarray(cv2.resize(grown, (columns, rows)))
    top = int(rng.integers(rows - height + 1))
    left = int(rng.integers(columns - width + 1))
    crop = grown[top : top + height, left : left + width]
    return np.ascontiguousarray(crop[:, ::-1] if rng.random() < 0.5 else crop)


def _color(rng: np.random.Generator) -> Float32[np.ndarray, "3"]:
    hue, saturation, value = rng.uniform(0, 180), rng.uniform(0, 120), rng.uniform(90, 245)
    pixel = np.array([[[hue, saturation, value]]], np.uint8)
    return np.asarray(cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0], np.float32)


def _ramp(width: int, height: int, rng: np.random.Generator) -> Float32[np.ndarray, "H W"]:
    angle = rng.uniform(0, 2 * np.pi)
    x = np.linspace(-1, 1, width, dtype=np.float32)
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    ramp = (x * np.cos(angle) + y * np.sin(angle)) / 1.5
    return np.asarray(np.clip(ramp / 2 + 0.5, 0, 1), dtype=np.float32)


def _noise(
    width: int, height: int, cell_px: tuple[float, float], rng: np.random.Generator
) -> Float32[np.ndarray, "H W"]:
    """Smooth noise of mean 0 and standard deviation 1; about one value every `cell_px` (x, y)."""
    columns, rows = (
        max(2, round(n / cell)) for n, cell in zip((width, height), cell_px, strict=True)
    )
    coarse = rng.standard_normal((rows, columns), np.float32)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


def _gradient(width: int, height: int, rng: np.random.Generator) -> Float32[np.ndarray, "H W 3"]:
    ramp = _ramp(width, height, rng)[..., None]
    return np.asarray(_color(rng) * ramp + _color(rng) * (1 - ramp), np.float32)


def _plaster(width: int, height: int, rng: np.random.Generator) -> Float32[np.ndarray, "H W 3"]:
    octaves = (_noise(width, height, (size, size), rng) for size in (64.0, 24.0, 8.0, 3.0))
    grain = sum(octave * weight for octave, weight in zip(octaves, (10, 7, 5, 4), strict=True))
    return np.asarray(_color(rng) + np.asarray(grain)[..., None], np.float32)


def _planks(width: int, height: int, rng: np.random.Generator) -> Float32[np.ndarray, "H W 3"]:
    grain = _noise(width, height, (90, 3), rng) * 9 + _noise(width, height, (40, 1.5), rng) * 5
    image = (_color(rng) * np.array([1, 0.85, 0.7], np.float32)) + grain[..., None]
    step = int(rng.integers(max(8, height // 9), max(9, height // 4)))
    for top in range(-int(rng.integers(step)), height, step):
        plank = slice(max(0, top), max(0, top + step))
        image[plank] += rng.uniform(-22, 22)
        image[max(0, top) : max(0, top + 2)] *= 0.55
    return np.asarray(image if rng.random() < 0.5 else _turned(image), np.float32)


def _turned(image: Float32[np.ndarray, "H W 3"]) -> Float32[np.ndarray, "H W 3"]:
    height, width = image.shape[:2]
    return np.asarray(cv2.resize(cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE), (width, height)))


def _tiles(width: int, height: int, rng: np.random.Generator) -> Float32[np.ndarray, "H W 3"]:
    side = int(rng.integers(max(8, width // 8), max(9, width // 3)))
    x, y = np.arange(width) + int(rng.integers(side)), np.arange(height) + int(rng.integers(side))
    shades = rng.uniform(-14, 14, (height // side + 2, width // side + 2)).astype(np.float32)
    image = _color(rng) + shades[np.ix_(y // side, x // side)][..., None]
    image += _noise(width, height, (20, 20), rng)[..., None] * 3
    joint = (x % side < 3)[None, :] | (y % side < 3)[:, None]
    image[joint] = image[joint] * 0.4 + 120
    return np.asarray(image, np.float32)


def _clutter(width: int, height: int, rng: np.random.Generator) -> Float32[np.ndarray, "H W 3"]:
    image = _gradient(width, height, rng)
    for _ in range(int(rng.integers(12, 40))):
        center = (int(rng.integers(width)), int(rng.integers(height)))
        half = rng.uniform(0.03, 0.18, 2) * min(width, height)
        color = tuple(float(level) for level in _color(rng))
        if rng.random() < 0.5:
            box = cv2.boxPoints((center, tuple(2 * half), float(rng.uniform(0, 90))))
            cv2.fillConvexPoly(image, box.astype(np.int32), color)
        else:
            axes = (round(float(half[0])), round(float(half[1])))
            cv2.ellipse(image, center, axes, float(rng.uniform(0, 180)), 0, 360, color, -1)
    sigma = float(rng.uniform(0.004, 0.02)) * min(width, height)
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32)
