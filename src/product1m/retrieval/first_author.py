"""The first author's ranking, for comparison: joint and stream products with equal weights.

The products of the gallery's stream tokens are stored beside the index, in half precision, and are
searched exactly. A served model never reads them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float16, Float32, Int64
from safetensors import safe_open
from safetensors.numpy import save_file

from product1m.artifacts.folder import Artifact
from product1m.retrieval.embedding import FIRST_AUTHOR, BlockLayout
from product1m.retrieval.index import ExactSearch, GalleryIndex

FILE = "first_author.safetensors"
MAX_ITEMS = 100_000
"""For a larger gallery the products are not stored, and the ranking is left out (ours)."""
_JOINT = "joint"
_CHUNK = 8192


def save_products(folder: Path, products: list[Float16[np.ndarray, "n E"]]) -> None:
    """Write the products of all items, in the order of the index."""
    save_file({FIRST_AUTHOR: np.concatenate(products)}, folder / FILE)


@dataclass(frozen=True)
class FirstAuthorSearch:
    """Ranks the gallery by joint and stream products."""

    gallery: GalleryIndex
    layout: BlockLayout
    path: Path

    @classmethod
    def load(
        cls, index: Artifact, gallery: GalleryIndex, layout: BlockLayout
    ) -> "FirstAuthorSearch | None":
        """The search of an index artifact; None if it stores no products."""
        if FILE not in index.manifest.files:
            return None
        return cls(gallery, layout, index.file(FILE))

    def nearest(
        self, vectors: Float32[np.ndarray, "I Q"], depth: int
    ) -> tuple[Float32[np.ndarray, "I N"], Int64[np.ndarray, "I N"]]:
        """Similarities and gallery rows of the items nearest to complete query vectors."""
        joint = vectors[:, self.layout.columns(_JOINT)]
        products = vectors[:, self.layout.dim :]
        search = ExactSearch(np.concatenate([joint, products], axis=1), depth)
        for items in self._items():
            search.add(items)
        return search.scores_and_positions()

    def _items(self) -> Iterator[Float32[np.ndarray, "n D"]]:
        columns = self.layout.columns(_JOINT)
        with safe_open(self.path, "np") as file:
            products = file.get_slice(FIRST_AUTHOR)
            for start in range(0, len(self.gallery), _CHUNK):
                rows = np.arange(start, min(start + _CHUNK, len(self.gallery)))
                joint = self.gallery.vectors(rows)[:, columns]
                own = products[start : int(rows[-1]) + 1].astype(np.float32)
                yield np.concatenate([joint, own], axis=1)
