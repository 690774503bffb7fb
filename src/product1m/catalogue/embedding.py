"""Vectors of a catalogue's items with a promoted model; only new photos pass through it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float32

from product1m.artifacts.folder import Artifact, open_artifact, write_artifact
from product1m.artifacts.model_parts import CAPTURE, INDEX, RPN
from product1m.catalogue.batches import (
    FEATURES,
    VECTORS_PART,
    Batches,
    KnownRegions,
    KnownVectors,
    vector_keys,
)
from product1m.config import CatalogueConfig, IngestionConfig
from product1m.data.items import ItemTable, ItemWriter, read_items
from product1m.detection.crop_cache import Cropper, stored_cropper
from product1m.detection.extraction import RegionSettings
from product1m.detection.feature_sets import write_features
from product1m.detection.ocr_cache import CachedReader, open_reader
from product1m.detection.points import PointFinder
from product1m.detection.untrained_boxes import grabcut_of_scenes
from product1m.retrieval.crop_block import CROP
from product1m.retrieval.embedding import OCR, BlockEncoder
from product1m.retrieval.shared_points import POINTS_WEIGHT
from product1m.serving.catalogue_folder import STEP, model_digest
from product1m.serving.model_folder import ServingConfig, open_part
from product1m.storage.folder import Folder, remove_unfinished_below
from product1m.storage.opening import open_store
from product1m.telemetry.progress import track

CHUNK = 256
"""Items embedded or read at the same time (ours)."""


@dataclass(frozen=True)
class CatalogueModel:
    """A promoted model, as far as it makes vectors of gallery items."""

    digest: str
    rpn: Artifact
    capture: Artifact
    index: Artifact
    """Its own index, whose encoders belong to the model."""
    config: ServingConfig

    @classmethod
    def open(cls, folder: Path) -> "CatalogueModel":
        """A verified model folder; ArtifactError names what is missing or damaged."""
        rpn, capture, index = (open_part(folder, name) for name in (RPN, CAPTURE, INDEX))
        return cls(model_digest(folder), rpn, capture, index, ServingConfig.read(folder))

    def encoder(self) -> BlockEncoder:
        """What makes a vector of a caption and a photo's regions."""
        return BlockEncoder.load(self.index, self.capture)

    def reader(self) -> CachedReader | None:
        """What reads packs; None if the model gives what is printed on them no weight."""
        weight = self.config.weights.get(OCR)
        if not weight:
            return None
        return open_reader(self.config.feature_extraction, FEATURES, self.rpn)

    def cropper(self) -> Cropper | None:
        """What encodes cut out products; None if the model gives that no weight."""
        if not self.config.weights.get(CROP):
            return None
        return stored_cropper(self.index, self.config.feature_extraction, FEATURES, self.rpn)

    def finder(self) -> PointFinder | None:
        """What finds points; None if the model gives shared points no weight."""
        if not self.config.weights.get(POINTS_WEIGHT):
            return None
        return PointFinder.from_config(self.config.feature_extraction, FEATURES)


def vectors_address(cache: str, digest: str) -> str:
    """Where a cache keeps what was computed with the model of a digest."""
    return f"{cache.rstrip('/')}/{digest[:32]}"


class ItemVectors:
    """The vectors of all items that were ever embedded with a model.

    Args:
        model: the model.
        cache: folder or `s3://` prefix; what is computed is kept there below the model's digest.
        config: of the step.
        scratch: an empty folder.
    """

    def __init__(
        self, model: CatalogueModel, cache: str, config: CatalogueConfig, scratch: Path
    ) -> None:
        self._model = model
        self._config = config
        self._scratch = scratch
        self._address = vectors_address(cache, model.digest)
        store = open_store(self._address)
        if isinstance(store, Folder):
            remove_unfinished_below(store.root)
        self._known = KnownVectors(self._batches(STEP, VECTORS_PART))
        self.num_extracted = 0
        """Photos whose regions were extracted now."""

    def can_embed(self, rows: pd.DataFrame, photos: Artifact) -> bool:
        """Whether `photos` has what the vectors that are not known yet are made of."""
        return set(self._missing(rows)["id"]) <= set(read_items(photos)["id"])

    def embed(self, rows: pd.DataFrame, photos: Artifact) -> None:
        """Make the vectors that are not known yet.

        Args:
            rows: of a catalogue's items.
            photos: an artifact of ingestion with the photos of those that are new or changed.
        """
        new = self._missing(rows).drop_duplicates(["sha256", "caption"])
        if not len(new):
            return
        regions = self._regions(new, photos)
        encoder, parts = self._model.encoder(), []
        for start in track(range(0, len(new), CHUNK), "embedding new items"):
            chunk = new.iloc[start : start + CHUNK]
            views = [regions.regions(photo) for photo in chunk["sha256"]]
            parts.append(encoder.vectors(chunk["caption"].tolist(), views, items=True))
        folder = self._scratch / "new_vectors"
        self._known.add(vector_keys(new), np.concatenate(parts), folder, self._config)

    def select(self, rows: pd.DataFrame) -> Float32[np.ndarray, "n D"]:
        """The vectors of some items, row for row."""
        return self._known.vectors(vector_keys(rows))

    def _missing(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows whose vectors are not known yet."""
        return rows[[key not in self._known for key in vector_keys(rows)]]

    def _batches(self, step: str, part: str) -> Batches:
        return Batches(self._address, step, part, self._scratch / "known")

    def _regions(self, rows: pd.DataFrame, photos: Artifact) -> KnownRegions:
        """The regions of all these items' photos; those not known are extracted and published."""
        batches = self._batches("feature_extraction", FEATURES)
        known = KnownRegions(batches)
        new = self._scratch / "new_photos"
        wanted = {photo for photo in rows["sha256"] if photo not in known}
        self.num_extracted = len(wanted)
        if not wanted:
            return known
        _copy_photos(photos, wanted, new, self._model.config.ingestion)
        config = self._model.config.feature_extraction
        inputs = {"images": open_artifact(new, "ingestion", FEATURES), "rpn": self._model.rpn}
        with write_artifact(
            self._scratch / "new_features",
            "feature_extraction",
            config,
            inputs,
            FEATURES,
            self._address,
        ) as writer:
            write_features(
                inputs["images"],
                self._model.rpn,
                writer,
                RegionSettings.from_config(config, grabcut_of_scenes(self._model.rpn)),
                num_workers=config.num_workers,
                shard_mib=config.shard_mib,
                reader=self._model.reader(),
                cropper=self._model.cropper(),
            )
        return KnownRegions(batches)


def _copy_photos(photos: Artifact, wanted: set[str], folder: Path, config: IngestionConfig) -> None:
    """Write an artifact of ingestion with each of the wanted photos once."""
    items, left = ItemTable(photos), set(wanted)
    with (
        write_artifact(folder, "ingestion", config, part=FEATURES) as writer,
        ItemWriter(writer.folder) as written,
    ):
        for position, row in enumerate(items.rows.to_dict("records")):
            if row["sha256"] in left:
                left.discard(row["sha256"])
                size_px = (int(row["width"]), int(row["height"]))
                written.add(row["id"], items.encoded(position), size_px, caption=row["caption"])
