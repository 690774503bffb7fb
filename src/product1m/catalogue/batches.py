"""What was computed once for a model, in batches that are never changed: features and vectors.

A batch is an artifact, published below an address that contains the model's digest. So a killed
refresh leaves whole batches or none, and several refreshes may write at once.
"""

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32
from safetensors import safe_open
from safetensors.numpy import save_file

from product1m.artifacts.folder import Artifact, open_artifact, write_artifact
from product1m.artifacts.manifest import MANIFEST
from product1m.artifacts.published import fetch_artifact
from product1m.config import CatalogueConfig
from product1m.data.regions import FeatureSet, Regions
from product1m.errors import ArtifactError
from product1m.serving.catalogue_folder import STEP
from product1m.storage.opening import open_store

logger = logging.getLogger(__name__)

FEATURES, VECTORS_PART = "gallery", "vectors"
KEYS, VECTORS = "keys.parquet", "vectors.safetensors"


class Batches:
    """The published batches of one step and part.

    Args:
        address: folder or `s3://` prefix of one model.
        step: that wrote them.
        part: of the step.
        scratch: where their tables are fetched to.
    """

    def __init__(self, address: str, step: str, part: str, scratch: Path) -> None:
        self.address = address
        self.step = step
        self.part = part
        self._scratch = scratch / step

    def __iter__(self) -> Iterator[Artifact]:
        store = open_store(self.address)
        names = [file.name for file in store.files(f"artifacts/{self.step}/{self.part}/")]
        for name in sorted(name for name in names if name.endswith(MANIFEST)):
            folder = self._scratch / PurePosixPath(name).parent.name
            if not folder.exists():
                folder.parent.mkdir(parents=True, exist_ok=True)
                try:
                    fetch_artifact(store.address(name), folder)
                except ArtifactError as error:  # damaged, or an erasure was killed within it
                    logger.warning("%s; its photos are computed again", error)
                    continue
            yield open_artifact(folder, self.step, self.part)


class KnownRegions:
    """Regions of photos that were extracted before, by the digest of the stored photo."""

    def __init__(self, batches: Batches) -> None:
        self._places: dict[str, tuple[FeatureSet, int]] = {}
        for batch in batches:
            features = FeatureSet(batch)
            places = ((features, row) for row in range(len(features)))
            self._places |= dict(zip(features.rows["sha256"], places, strict=True))

    def __contains__(self, photo: str) -> bool:
        return photo in self._places

    def regions(self, photo: str) -> Regions:
        """The regions of a photo; KeyError if it is not known."""
        features, row = self._places[photo]
        return features.regions(row)


class KnownVectors:
    """Vectors of items that were embedded before, by photo and caption."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._places: dict[str, tuple[int, int]] = {}
        self._vectors: list[Any] = []  # read row by row, so that memory does not hold them
        for batch in batches:
            keys = pq.read_table(batch.file(KEYS))["key"].to_pylist()
            places = ((len(self._vectors), row) for row in range(len(keys)))
            self._places |= dict(zip(keys, places, strict=True))
            self._vectors.append(_rows_of(batch.file(VECTORS)))

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def add(
        self,
        keys: list[str],
        vectors: Float32[np.ndarray, "n D"],
        folder: Path,
        config: CatalogueConfig,
    ) -> None:
        """Publish a batch, written to `folder` first, and know it from now on."""
        address = self._batches.address
        half = vectors.astype(np.float16)
        with write_artifact(
            folder, STEP, config, part=VECTORS_PART, storage_root=address
        ) as writer:
            pq.write_table(pa.table({"key": keys}), writer.folder / KEYS)
            save_file({"vectors": half}, writer.folder / VECTORS)
            writer.store(writer.folder / VECTORS)
        self._places |= {key: (len(self._vectors), row) for row, key in enumerate(keys)}
        self._vectors.append(half)

    def vectors(self, keys: list[str]) -> Float32[np.ndarray, "n D"]:
        """The vectors of some items, with half precision; KeyError for one that is not known."""
        places = [self._places[key] for key in keys]
        if not places:
            return np.empty((0, 0), np.float32)
        rows = [self._vectors[batch][row : row + 1] for batch, row in places]
        return np.concatenate(rows).astype(np.float32)


def _rows_of(path: Path) -> Any:
    return safe_open(path, "numpy").get_slice("vectors")


def vector_keys(rows: pd.DataFrame) -> list[str]:
    """What an item's vector depends on beside the model: digests of its photo and its caption."""
    return [
        f"{photo}-{hashlib.sha256(caption.encode()).hexdigest()[:32]}"
        for photo, caption in zip(rows["sha256"], rows["caption"], strict=True)
    ]
