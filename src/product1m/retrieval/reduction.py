"""Reduce wide blocks to the directions in which the gallery's items vary most.

A block is multiplied by the leading right singular vectors of a sample of the gallery. It is not
centered, so inner products only lose the directions that are left out. Then it is normalized again.
Queries are reduced in the same way.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from safetensors.numpy import load_file, save_file

from product1m.artifacts.folder import Artifact
from product1m.data.vectors import normalize

REDUCTIONS = "reductions.safetensors"


@dataclass(frozen=True)
class Reductions:
    """The matrix for each reduced block; a block that is narrow enough has none."""

    directions: Mapping[str, Float32[np.ndarray, "W K"]] = field(default_factory=dict)

    @classmethod
    def fit(cls, blocks: Mapping[str, Float32[np.ndarray, "n W"]], max_width: int) -> "Reductions":
        """Fit to a sample of the gallery; blocks wider than `max_width` are reduced to it."""
        return cls(
            {
                name: _leading(block, max_width)
                for name, block in blocks.items()
                if block.shape[1] > max_width
            }
        )

    def apply(
        self, blocks: Mapping[str, Float32[np.ndarray, "n W"]]
    ) -> dict[str, Float32[np.ndarray, "n K"]]:
        """The blocks; reduced ones have unit length."""
        return {name: self._reduce(name, block) for name, block in blocks.items()}

    def _reduce(self, name: str, block: Float32[np.ndarray, "n W"]) -> Float32[np.ndarray, "n K"]:
        if name not in self.directions:
            return block
        return normalize(block @ self.directions[name])

    def save(self, folder: Path) -> None:
        """Write as safetensors, also if no block is reduced."""
        save_file(dict(self.directions), folder / REDUCTIONS)

    @classmethod
    def load(cls, artifact: Artifact) -> "Reductions":
        """Read what `save` wrote into an index artifact; an older index has no reductions."""
        if REDUCTIONS not in artifact.manifest.files:
            return cls()
        return cls(load_file(artifact.file(REDUCTIONS)))


def _leading(block: Float32[np.ndarray, "n W"], width: int) -> Float32[np.ndarray, "W K"]:
    """Eigenvectors of the second moments with the largest eigenvalues, as columns."""
    moments = block.T.astype(np.float64) @ block
    _, vectors = np.linalg.eigh(moments)
    leading = vectors[:, ::-1][:, :width]
    # The sign of an eigenvector is arbitrary: its largest entry is made positive.
    largest = np.abs(leading).argmax(axis=0)
    signs = np.sign(leading[largest, np.arange(leading.shape[1])])
    return np.ascontiguousarray(leading * signs, np.float32)
