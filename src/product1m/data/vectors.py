"""Rows of unit length, whose products are cosines."""

import numpy as np
from jaxtyping import Float, Float32


def normalize(rows: Float[np.ndarray, "n W"]) -> Float32[np.ndarray, "n W"]:
    """Rows of unit length; a row of zeros stays zero, so that its block has no effect."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(norms, 1e-12), dtype=np.float32)
