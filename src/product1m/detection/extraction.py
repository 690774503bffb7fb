"""Photos to regions: proposals, NMS, and a feature vector for each (paper)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32

from product1m.config import FeatureExtractionConfig
from product1m.data.geometry import Boxes
from product1m.data.photos import Photo
from product1m.data.regions import Regions
from product1m.detection.canvas import Canvas, stack_canvases
from product1m.detection.libraries import nms
from product1m.detection.pooling import pool_from_scales
from product1m.detection.proposals import Maps, ProposalNetwork, Proposals
from product1m.detection.spread import spread
from product1m.detection.untrained_boxes import grabcut_box, whole_image_box
from product1m.errors import ArtifactError
from product1m.synthesis.grabcut import GrabCutSettings
from product1m.training.memory import in_halves

PhotoRegions = tuple[Regions, Float[np.ndarray, "K F"]]
"""A photo's regions, and the vectors of the extra boxes."""


@dataclass(frozen=True)
class RegionSettings:
    """Which regions a photo has and how they become vectors.

    The section `feature_extraction` of the configuration explains each value.
    """

    proposals: Literal["rpn", "grabcut", "whole_photo"]
    min_regions: int
    max_regions: int
    min_score: float
    nms_iou: float
    photo_scales: int
    canonical_side_px: int
    roi_size: int
    batch_size: int
    precision: Literal["float32", "bf16"]
    grabcut: GrabCutSettings | None = None
    """Needed only for the proposals `grabcut`."""

    @classmethod
    def from_config(
        cls, config: FeatureExtractionConfig, grabcut: GrabCutSettings | None
    ) -> "RegionSettings":
        """The settings in a configuration section.

        `grabcut` comes from the RPN, see `grabcut_of_scenes`.
        """
        return cls(
            proposals=config.proposals,
            min_regions=config.min_regions,
            max_regions=config.max_regions,
            min_score=config.min_score,
            nms_iou=config.nms_iou,
            photo_scales=config.photo_scales,
            canonical_side_px=config.canonical_side_px,
            roi_size=config.roi_size,
            batch_size=config.batch_size,
            precision=config.precision,
            grabcut=grabcut,
        )


@dataclass(frozen=True)
class SizedPhoto:
    """A photo at the sizes at which it is encoded."""

    canvases: list[Canvas]
    """At the network's size, at half of it, and so on."""
    boxes_xyxy: Boxes | None = None
    """Boxes in the photo's pixels that replace the network's proposals."""


def extract_regions(
    network: ProposalNetwork,
    photos: Sequence[Photo],
    settings: RegionSettings,
    extra_boxes: Sequence[Boxes] | None = None,
) -> list[PhotoRegions]:
    """The regions of every photo, the whole photo first, and vectors of given boxes.

    A photo's result does not depend on the other photos. Vectors are rounded to float16, as a
    feature set stores them, so that a served query gets the same numbers as in the batch step.

    Args:
        network: from `load_rpn`.
        photos: photos of any size.
        settings: how many regions, and how they are pooled.
        extra_boxes: for every photo, further boxes in its pixels that get a vector.
    """
    sized = [sized_photo(network, photo, settings) for photo in photos]
    return [
        (replace(regions, features=regions.features.astype(np.float16)), extra.astype(np.float16))
        for regions, extra in extract_sized(network, sized, settings, extra_boxes)
    ]


def sized_photo(network: ProposalNetwork, photo: Photo, settings: RegionSettings) -> SizedPhoto:
    """A photo at the sizes at which it is encoded, with its boxes unless the network proposes them.

    Raises ArtifactError if GrabCut proposes boxes and its settings are unknown.
    """
    canvases = [network.canvas(photo, 2**scale) for scale in range(settings.photo_scales)]
    if settings.proposals == "grabcut":
        if settings.grabcut is None:
            raise ArtifactError(
                "feature_extraction.proposals=grabcut uses the GrabCut settings of the scenes that "
                "the RPN was trained on, but the RPN's manifest does not name them; "
                "run rpn_training again"
            )
        return SizedPhoto(canvases, grabcut_box(photo, settings.grabcut))
    if settings.proposals == "whole_photo":
        return SizedPhoto(canvases, np.empty((0, 4), np.float32))
    return SizedPhoto(canvases)


def extract_sized(
    network: ProposalNetwork,
    photos: Sequence[SizedPhoto],
    settings: RegionSettings,
    extra_boxes: Sequence[Boxes] | None = None,
) -> list[PhotoRegions]:
    """`extract_regions` for photos that are already resized; vectors stay float32."""
    extra = extra_boxes or [np.empty((0, 4), np.float32)] * len(photos)
    batches = batches_of_one_shape(photos, settings.batch_size)

    def extract(positions: Sequence[int]) -> list[PhotoRegions]:
        members = [photos[i] for i in positions], [extra[i] for i in positions]
        return _extract_batch(network, *members, settings)

    def extract_what_fits(positions: list[int]) -> list[PhotoRegions]:
        return in_halves(extract, positions)

    results: dict[int, PhotoRegions] = {}
    extracted = spread(extract_what_fits, batches, network.device)
    for positions, batch in zip(batches, extracted, strict=True):
        results.update(zip(positions, batch, strict=True))
    return [results[position] for position in range(len(photos))]


def batches_of_one_shape(photos: Sequence[SizedPhoto], batch_size: int) -> list[list[int]]:
    """Positions of the photos, in batches of photos with the same shape at every size."""
    by_shape: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for position, photo in enumerate(photos):
        shapes = tuple(canvas.pixels.shape for canvas in photo.canvases)
        by_shape.setdefault(shapes, []).append(position)
    return [
        positions[start : start + batch_size]
        for positions in by_shape.values()
        for start in range(0, len(positions), batch_size)
    ]


@torch.inference_mode()
def _extract_batch(
    network: ProposalNetwork,
    photos: list[SizedPhoto],
    extra_boxes: list[Boxes],
    settings: RegionSettings,
) -> list[PhotoRegions]:
    largest = [photo.canvases[0] for photo in photos]
    with torch.autocast(network.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
        maps = network(stack_canvases(largest).to(network.device))
        proposals = _proposals(network, maps, photos, settings)
        smaller = [
            network(stack_canvases(canvases).to(network.device))[-1]
            for canvases in list(zip(*(photo.canvases for photo in photos), strict=True))[1:]
        ]
    boxes = [
        np.concatenate([_whole(canvas), _on_photo(canvas, proposed), extra])
        for canvas, proposed, extra in zip(largest, proposals, extra_boxes, strict=True)
    ]
    vectors = pool_from_scales(
        [maps[-1], *smaller],
        [photo.canvases for photo in photos],
        boxes,
        stride=network.backbone.strides[-1],
        roi_size=settings.roi_size,
        canonical_side_px=settings.canonical_side_px,
    )
    return [
        _photo_regions(all_boxes, proposed, rows)
        for all_boxes, proposed, rows in zip(boxes, proposals, vectors, strict=True)
    ]


def _proposals(
    network: ProposalNetwork, maps: Maps, photos: list[SizedPhoto], settings: RegionSettings
) -> list[Proposals]:
    """The network's proposals after selection, or the boxes that come with the photos."""
    given = [
        torch.from_numpy(photo.boxes_xyxy * photo.canvases[0].scale())
        for photo in photos
        if photo.boxes_xyxy is not None
    ]
    if not given:
        inner_px = [photo.canvases[0].inner_px for photo in photos]
        return [
            keep_proposals(
                proposals,
                nms_iou=settings.nms_iou,
                min_score=settings.min_score,
                min_regions=settings.min_regions,
                max_regions=settings.max_regions,
            )
            for proposals in network.propose(maps, inner_px)
        ]
    return [Proposals(boxes, torch.ones(len(boxes))) for boxes in given]


def keep_proposals(
    proposals: Proposals, *, nms_iou: float, min_score: float, min_regions: int, max_regions: int
) -> Proposals:
    """Class-agnostic NMS, then the best `min_regions`, then all others of at least `min_score`.

    At most `max_regions` are kept. These are the regions inside the model, many per product;
    `geometry.select_boxes` chooses the boxes that count as products.
    """
    kept = nms(proposals.boxes_xyxy, proposals.scores, nms_iou)[:max_regions]
    confident = int((proposals.scores[kept] >= min_score).sum())
    kept = kept[: max(confident, min_regions)]
    return Proposals(proposals.boxes_xyxy[kept], proposals.scores[kept])


def _whole(canvas: Canvas) -> Boxes:
    height, width = canvas.photo_px
    return whole_image_box(width, height)


def _on_photo(canvas: Canvas, proposals: Proposals) -> Boxes:
    return np.asarray(proposals.boxes_xyxy.cpu().numpy() / canvas.scale(), np.float32)


def _photo_regions(
    boxes_xyxy: Boxes, proposals: Proposals, vectors: Float32[np.ndarray, "K F"]
) -> PhotoRegions:
    """The whole photo with its regions, and separately the vectors of the extra boxes."""
    num_regions = 1 + len(proposals.scores)
    scores = np.concatenate([np.ones(1, np.float32), proposals.scores.cpu().numpy()])
    regions = Regions(vectors[:num_regions], boxes_xyxy[:num_regions], scores)
    return regions, vectors[num_regions:]
