"""Training scenes in other colors and sizes; never mirrored, because a pack's lettering is not."""

import numpy as np

from product1m.config import RpnTrainingConfig
from product1m.data.photos import Photo
from product1m.detection.canvas import Canvas, make_canvas


def jitter(
    photo: Photo, config: RpnTrainingConfig, factor: float, generator: np.random.Generator
) -> Canvas:
    """The photo in random colors, at `factor` times the network's size."""
    short, long = round(config.short_side_px * factor), round(config.long_side_px * factor)
    return make_canvas(jitter_colors(photo, config.color_jitter, generator), short, long)


def skip_jitter(config: RpnTrainingConfig, num_photos: int, generator: np.random.Generator) -> None:
    """Draw what `jitter` would for some photos that another rank has."""
    for _ in range(num_photos):
        _draw_colors(config.color_jitter, generator)


def jitter_colors(photo: Photo, strength: float, generator: np.random.Generator) -> Photo:
    """Scale brightness, and contrast about the mean, each by 1 ± `strength`."""
    if not strength:
        return photo
    brightness, contrast = _draw_colors(strength, generator)
    mean = photo.mean()
    changed = ((photo - mean) * contrast + mean) * brightness
    return np.asarray(np.clip(changed, 0, 255).astype(np.uint8))


def _draw_colors(strength: float, generator: np.random.Generator) -> tuple[float, float]:
    """Factors of brightness and contrast; without jitter nothing is drawn."""
    if not strength:
        return 1.0, 1.0
    brightness, contrast = generator.uniform(1 - strength, 1 + strength, 2)
    return float(brightness), float(contrast)
