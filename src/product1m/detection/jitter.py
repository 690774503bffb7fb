"""Training scenes in other colors and sizes; never mirrored, because a pack's lettering is not."""

import numpy as np

from product1m.data.photos import Photo


def jitter_colors(photo: Photo, strength: float, generator: np.random.Generator) -> Photo:
    """Scale brightness, and contrast about the mean, each by 1 ± `strength`; 0 changes nothing."""
    if not strength:
        return photo
    brightness, contrast = generator.uniform(1 - strength, 1 + strength, 2)
    mean = photo.mean()
    changed = ((photo - mean) * float(contrast) + mean) * float(brightness)
    return np.asarray(np.clip(changed, 0, 255).astype(np.uint8))


def view_factors(count: int, scale_jitter: float) -> list[float]:
    """Sizes of `count` views relative to the network's, evenly spread over 1 ± `scale_jitter`."""
    return [1 + scale_jitter * ((2 * view + 1) / count - 1) for view in range(count)]
