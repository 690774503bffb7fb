"""The block `crop`: each product cut out of its photo and encoded by itself.

Vectors are standardized with the gallery's mean and standard deviation, as the block `image` is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32
from safetensors.numpy import load_file, save_file

from product1m.artifacts.folder import Artifact
from product1m.data.crop_vectors import DETAILS
from product1m.data.regions import Regions
from product1m.data.vectors import normalize
from product1m.errors import ArtifactError

CROP = "crop"
FILE = "crop_block.safetensors"


@dataclass(frozen=True)
class CropBlock:
    """Makes the block of views whose boxes were encoded."""

    mean: Float32[np.ndarray, " D"]
    deviation: Float32[np.ndarray, " D"]
    details: dict[str, Any]
    """Facts about the encoder, see `crop_vectors.DETAILS`."""
    matrix: Float32[np.ndarray, "D D"] | None = None
    """Linear map of standardized vectors, see `capture/crop_adaptation.py`; None for none."""

    @classmethod
    def fit(
        cls,
        vectors: Float[np.ndarray, "n D"],
        details: dict[str, Any],
        matrix: Float32[np.ndarray, "D D"] | None = None,
    ) -> "CropBlock":
        """Fit to a sample of the gallery; a constant dimension is only centered."""
        wide = vectors.astype(np.float64)
        deviation = wide.std(axis=0)
        deviation[deviation < 1e-6] = 1.0
        mean = wide.mean(axis=0)
        return cls(mean.astype(np.float32), deviation.astype(np.float32), details, matrix)

    def encode(self, views: Sequence[Regions], *, items: bool) -> Float32[np.ndarray, "n D"]:
        """A row of unit length for each view; zeros where nothing was encoded.

        A gallery item has one encoded box. A view of a query has that of its own box.
        """
        rows = np.zeros((len(views), len(self.mean)), np.float32)
        for row, view in zip(rows, views, strict=True):
            crops = view.crops
            vector = crops.vectors[0] if items and len(crops) else crops.at(view.boxes_xyxy[0])
            if vector is not None:
                row[:] = (vector.astype(np.float32) - self.mean) / self.deviation
        if self.matrix is not None:
            rows = rows @ self.matrix.T
        return normalize(rows)

    def save(self, folder: Path) -> None:
        """Write as safetensors."""
        own = {"mean": self.mean, "deviation": self.deviation}
        save_file(own | ({"matrix": self.matrix} if self.matrix is not None else {}), folder / FILE)

    @classmethod
    def load(cls, index: Artifact) -> "CropBlock | None":
        """Read what `save` wrote into an index artifact; None if it has no such block."""
        if FILE not in index.manifest.files:
            return None
        return cls(**load_file(index.file(FILE)), details=index.manifest.details[DETAILS])


def require_same_encoder(queries: Artifact, index: Artifact) -> None:
    """ArtifactError if the crops of queries and gallery were not encoded by the same encoder."""
    own, other = (artifact.manifest.details.get(DETAILS) for artifact in (queries, index))
    if own and other and own["digest"] != other["digest"]:
        raise ArtifactError(
            f"{queries.folder}: its crops were encoded by {own['encoder']} ({own['digest']}), "
            f"those of the index by {other['encoder']} ({other['digest']}); run "
            "feature_extraction of queries and gallery again with one "
            "feature_extraction.crop_encoder"
        )
