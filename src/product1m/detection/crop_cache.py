"""Which boxes of a photo are cut out and encoded, and a cache of their vectors.

The cache is a folder or a prefix below `s3://`, by photo, boxes and encoder: a second run, or a
catalogue with new photos, encodes only photos that are not in it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float32
from safetensors import SafetensorError
from safetensors.numpy import load, save

from product1m.artifacts.folder import Artifact
from product1m.config import FeatureExtractionConfig
from product1m.data.crop_vectors import MIN_IOU, NO_CROPS, CropVectors
from product1m.data.geometry import Boxes, BoxSelection, chosen_boxes, pairwise_iou
from product1m.data.photos import Photo
from product1m.data.regions import Regions
from product1m.detection.box_cache import BoxCache
from product1m.detection.crop_encoder import CropEncoder, open_encoder, stored_encoder
from product1m.detection.crops import cut_out

Shown = Literal["one", "several", "known"]
SEARCHED = ("gallery", "queries")
"""Parts of the data whose crops the block `crop` consists of."""
SHOWS: Mapping[str, Shown] = {
    "gallery": "one",
    "queries": "several",
    "train": "one",
    "scenes": "known",
}
"""What the photos of a part of the data show."""


@dataclass(frozen=True)
class CropSelection:
    """Which boxes of a photo are encoded."""

    shows: Shown
    """Whether a photo shows one product, as those of the gallery do, several that must be found, or
    several in known boxes, as scenes do."""
    boxes: BoxSelection

    def boxes_of(self, regions: Regions, known_xyxy: Boxes | None = None) -> Boxes:
        """The boxes to encode.

        Of a scene: its known boxes.
        Of a photo with one product: its surest box, or the whole photo if no region is sure enough.
        Of any other: the whole photo, the boxes that are shown, and known boxes that none of those
        stands for.
        """
        known_xyxy = np.empty((0, 4), np.float32) if known_xyxy is None else known_xyxy
        if self.shows == "known":
            return known_xyxy
        rows = regions.products(self.boxes)
        if self.shows == "one":
            return regions.boxes_xyxy[rows[:1] if len(rows) else [0]]
        boxes = regions.boxes_xyxy[[0, *rows]]
        new = (pairwise_iou(known_xyxy, boxes) < MIN_IOU).all(axis=1)
        return np.concatenate([boxes, known_xyxy[new]]).astype(np.float32)


class Cropper:
    """Encodes the boxes of photos, and counts cached and new photos for metrics."""

    def __init__(self, encoder: CropEncoder, selection: CropSelection, cache: str = "") -> None:
        """`cache` is the address of a folder or prefix; if it is empty, every photo is encoded."""
        self.encoder = encoder
        self.selection = selection
        prefix = f"crops/{encoder.key}"
        self._cache = BoxCache(cache, prefix, ".safetensors", _encoded, self._decoded)

    def crops(
        self,
        digest: str,
        photo: Callable[[], Photo],
        regions: Regions,
        known_xyxy: Boxes | None = None,
    ) -> CropVectors:
        """The vectors of a photo's boxes.

        Args:
            digest: SHA-256 of the stored photo.
            photo: decodes the photo; called only if boxes must be encoded.
            regions: the photo's regions.
            known_xyxy: further boxes of products, if they are known.
        """
        boxes_xyxy = self.selection.boxes_of(regions, known_xyxy)
        return self._cache.get(digest, boxes_xyxy, lambda: self.encode(photo(), boxes_xyxy))

    def encode(self, photo: Photo, boxes_xyxy: Boxes) -> CropVectors:
        """The vectors of boxes of a photo, one at a time."""
        if not len(boxes_xyxy):
            return NO_CROPS
        vectors = [_unit(self.encoder.encode(crop)) for crop in cut_out(photo, boxes_xyxy)]
        return CropVectors(boxes_xyxy, np.stack(vectors).astype(np.float16))

    def with_crops(self, photo: Photo, regions: Regions) -> Regions:
        """The regions of a query with the vectors of its boxes, or, without any, of the photo."""
        boxes_xyxy = self.selection.boxes_of(regions)
        searched = boxes_xyxy[1:] if len(boxes_xyxy) > 1 else boxes_xyxy
        return replace(regions, crops=self.encode(photo, searched))

    def metrics(self) -> dict[str, float]:
        """Number of photos encoded now, of photos from the cache, and of boxes per photo."""
        return self._cache.metrics("encoded", "crops")

    def _decoded(self, content: bytes, boxes_xyxy: Boxes) -> CropVectors | None:
        try:
            vectors = load(content)["vectors"]
        except (SafetensorError, LookupError):
            return None
        if vectors.shape != (len(boxes_xyxy), self.encoder.dim) or vectors.dtype != np.float16:
            return None
        return CropVectors(boxes_xyxy, vectors)


def _encoded(crops: CropVectors) -> bytes:
    return save({"vectors": crops.vectors})


def open_cropper(config: FeatureExtractionConfig, part: str, rpn: Artifact) -> Cropper | None:
    """What a configuration section asks for; None if nothing of this part is encoded."""
    is_needed = part in SEARCHED or (part in SHOWS and config.crop_adaptation)
    if not config.crop_encoder or not is_needed:
        return None
    return cropper_of(open_encoder(config, rpn), config, part, rpn)


def cropper_of(
    encoder: CropEncoder, config: FeatureExtractionConfig, part: str, rpn: Artifact
) -> Cropper:
    """What encodes the photos of a part of the data."""
    boxes = chosen_boxes(rpn.manifest.details, config.crop_max_boxes)
    return Cropper(encoder, CropSelection(SHOWS[part], boxes), config.crop_cache)


def stored_cropper(
    index: Artifact, config: FeatureExtractionConfig, part: str, rpn: Artifact
) -> Cropper:
    """What encodes the photos of a part with the encoder of an index, see `stored_encoder`."""
    return cropper_of(stored_encoder(index, config, rpn), config, part, rpn)


def _unit(vector: Float32[np.ndarray, " D"]) -> Float32[np.ndarray, " D"]:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12), np.float32)
