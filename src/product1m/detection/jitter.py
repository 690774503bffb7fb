"""Training scenes in other colors and sizes, and as a camera sees them (ours).

They are never mirrored, because real text on a pack is not.
"""

import cv2
import numpy as np

from product1m.data.photos import Photo, decode_photo, encode_jpeg

_LIGHT, _SLOPE, _TINT = (0.6, 1.25), 0.25, 0.1
"""Brightness, its change from the middle to an edge, and the change of each color (ours)."""
_GAMMA, _VIGNETTE = (0.75, 1.35), 0.35
_BLUR_PX, _NOISE_LEVELS, _JPEG_QUALITY = (0.3, 1.6), (1.0, 8.0), (45, 95)


def jitter_photo(
    photo: Photo, color_jitter: float, camera_share: float, generator: np.random.Generator
) -> Photo:
    """Change a photo's colors and, with probability `camera_share`, add a camera's effects."""
    photo = jitter_colors(photo, color_jitter, generator)
    if camera_share and generator.random() < camera_share:
        return as_photographed(photo, generator)
    return photo


def jitter_colors(photo: Photo, strength: float, generator: np.random.Generator) -> Photo:
    """Scale brightness, and contrast about the mean, each by 1 ± `strength`; 0 changes nothing."""
    if not strength:
        return photo
    brightness, contrast = generator.uniform(1 - strength, 1 + strength, 2)
    mean = photo.mean()
    changed = ((photo - mean) * float(contrast) + mean) * float(brightness)
    return np.asarray(np.clip(changed, 0, 255).astype(np.uint8))


def as_photographed(photo: Photo, generator: np.random.Generator) -> Photo:
    """Add uneven, tinted light, a vignette, gamma, blur, noise and JPEG loss of random strengths.

    Composed scenes are sharp and evenly lit; customers' photos are not.
    """
    rng = generator
    height, width = photo.shape[:2]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)
    across, down = rng.uniform(-_SLOPE, _SLOPE, 2)
    light = rng.uniform(*_LIGHT) * (1 + across * x + down * y)
    if rng.random() < 0.3:
        light = light * (1 - rng.uniform(0, _VIGNETTE) * (x * x + y * y) / 2)
    tint = rng.uniform(1 - _TINT, 1 + _TINT, 3)
    seen = np.clip(photo * (light[..., None] * tint), 0, 255).astype(np.float32)
    if rng.random() < 0.5:
        seen = 255 * (seen / 255) ** np.float32(rng.uniform(*_GAMMA))
    if rng.random() < 0.6:
        seen = np.asarray(cv2.GaussianBlur(seen, (0, 0), float(rng.uniform(*_BLUR_PX))))
    if rng.random() < 0.7:
        noise = rng.standard_normal(seen.shape, np.float32)
        seen = seen + np.float32(rng.uniform(*_NOISE_LEVELS)) * noise
    pixels = np.clip(seen, 0, 255).astype(np.uint8)
    return decode_photo(encode_jpeg(pixels, int(rng.integers(*_JPEG_QUALITY))), "a jittered photo")


def view_factors(count: int, scale_jitter: float) -> list[float]:
    """Sizes of `count` views relative to the network's, evenly spread over 1 ± `scale_jitter`."""
    return [1 + scale_jitter * ((2 * view + 1) / count - 1) for view in range(count)]
