"""Photos to region features: proposals, NMS, RoIAlign on the last stage, its mean (paper).

A network's features of one product differ much with its size. So a photo is encoded at several
sizes, and a region is pooled from the one where it comes closest to the canonical size (ours).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor
from torchvision.ops import nms, roi_align

from product1m.config import BackgroundSynthesisConfig, FeatureExtractionConfig
from product1m.data.geometry import Boxes
from product1m.data.photos import Photo
from product1m.data.regions import Regions
from product1m.detection.canvas import Canvas, stack_canvases
from product1m.detection.proposals import Maps, ProposalNetwork, Proposals
from product1m.detection.spread import spread
from product1m.detection.untrained_boxes import grabcut_box

SAMPLES_PER_BIN = 2
"""RoIAlign's sampling points a side of a bin (ours: torchvision's detectors)."""

Extracted = tuple[Regions, Float[np.ndarray, "K F"]]


@dataclass(frozen=True)
class SizedPhoto:
    """A photo as it is encoded."""

    canvases: list[Canvas]
    """At the network's size, at half of it, and so on."""
    proposed: Boxes | None = None
    """Boxes in the photo's pixels that stand in for the network's proposals."""


def extract_regions(
    network: ProposalNetwork,
    photos: Sequence[Photo],
    config: FeatureExtractionConfig,
    extra_boxes: Sequence[Boxes] | None = None,
) -> list[Extracted]:
    """The regions of every photo, the whole photo first, and vectors at given boxes.

    A photo's result does not depend on the other photos. Vectors are rounded to float16, as a
    feature set stores them, so that a served query sees the very numbers of the batch step.

    Args:
        network: as `load_rpn` gives it.
        photos: any sizes.
        config: how many regions, and how they are pooled.
        extra_boxes: for every photo boxes in its own pixels whose vectors are wanted too.
    """
    sized = [sized_photo(network, photo, config) for photo in photos]
    return [
        (replace(regions, features=regions.features.astype(np.float16)), extra.astype(np.float16))
        for regions, extra in extract_sized(network, sized, config, extra_boxes)
    ]


def sized_photo(
    network: ProposalNetwork, photo: Photo, config: FeatureExtractionConfig
) -> SizedPhoto:
    """A photo at the sizes at which it will be encoded, with its boxes if no network finds them."""
    canvases = [network.canvas(photo, 2**scale) for scale in range(config.photo_scales)]
    if config.proposals == "grabcut":
        return SizedPhoto(canvases, grabcut_box(photo, BackgroundSynthesisConfig()))
    if config.proposals == "whole_photo":
        return SizedPhoto(canvases, np.empty((0, 4), np.float32))
    return SizedPhoto(canvases)


def extract_sized(
    network: ProposalNetwork,
    photos: Sequence[SizedPhoto],
    config: FeatureExtractionConfig,
    extra_boxes: Sequence[Boxes] | None = None,
) -> list[Extracted]:
    """`extract_regions` of photos that have their sizes already, in float32."""
    extra = extra_boxes or [np.empty((0, 4), np.float32)] * len(photos)
    batches = batches_of_one_shape(photos, config.batch_size)

    def extract(positions: list[int]) -> list[Extracted]:
        mine = [photos[i] for i in positions], [extra[i] for i in positions]
        return _extract_batch(network, *mine, config)

    found: dict[int, Extracted] = {}
    for positions, results in zip(batches, spread(extract, batches, network.device), strict=True):
        found.update(zip(positions, results, strict=True))
    return [found[position] for position in range(len(photos))]


def batches_of_one_shape(photos: Sequence[SizedPhoto], batch_size: int) -> list[list[int]]:
    """Positions of the photos in batches whose members are equally large at every size."""
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
    config: FeatureExtractionConfig,
) -> list[Extracted]:
    largest = [photo.canvases[0] for photo in photos]
    with torch.autocast(network.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        maps = network(stack_canvases(largest).to(network.device))
        kept = _proposals(network, maps, photos, config)
        smaller = [
            network(stack_canvases(canvases).to(network.device))[-1]
            for canvases in list(zip(*(photo.canvases for photo in photos), strict=True))[1:]
        ]
    boxes = [
        np.concatenate([_whole(canvas), _on_photo(canvas, chosen), extra])
        for canvas, chosen, extra in zip(largest, kept, extra_boxes, strict=True)
    ]
    stride = network.backbone.strides[-1]
    vectors = _pool_sizes([maps[-1], *smaller], photos, boxes, stride, config)
    return [
        _result(all_boxes, chosen, rows)
        for all_boxes, chosen, rows in zip(boxes, kept, vectors, strict=True)
    ]


def _proposals(
    network: ProposalNetwork, maps: Maps, photos: list[SizedPhoto], config: FeatureExtractionConfig
) -> list[Proposals]:
    """What is kept of the network's proposals, or the boxes that come with the photos."""
    given = [
        torch.from_numpy(photo.proposed * photo.canvases[0].scale())
        for photo in photos
        if photo.proposed is not None
    ]
    if not given:
        inner_px = [photo.canvases[0].inner_px for photo in photos]
        return [select(found, config) for found in network.propose(maps, inner_px)]
    return [Proposals(boxes, torch.ones(len(boxes))) for boxes in given]


def select(proposals: Proposals, config: FeatureExtractionConfig) -> Proposals:
    """Class-agnostic NMS, then the best `min_regions`, and more of them above `min_score`."""
    kept = nms(proposals.boxes_xyxy, proposals.scores, config.nms_iou)[: config.max_regions]
    confident = int((proposals.scores[kept] >= config.min_score).sum())
    kept = kept[: max(confident, config.min_regions)]
    return Proposals(proposals.boxes_xyxy[kept], proposals.scores[kept])


def scale_of(
    boxes_xyxy: Boxes, canvas: Canvas, config: FeatureExtractionConfig
) -> Int[np.ndarray, " K"]:
    """At which size each box of a photo is pooled: 0 is the network's own, 1 half of it.

    The one where the square root of the box's area, in pixels, comes closest to
    `canonical_side_px`, by factor.
    """
    boxes = boxes_xyxy * canvas.scale()
    sides = np.sqrt(np.clip(boxes[:, 2:] - boxes[:, :2], 1.0, None).prod(axis=1))
    halvings = np.rint(np.log2(sides / config.canonical_side_px))
    return np.asarray(np.clip(halvings, 0, config.photo_scales - 1).astype(np.int64))


def _pool_sizes(
    last_maps: list[Float[Tensor, "B F H_s W_s"]],
    photos: list[SizedPhoto],
    boxes_xyxy: list[Boxes],
    stride: int,
    config: FeatureExtractionConfig,
) -> list[Float32[np.ndarray, "K F"]]:
    """The vectors of every photo's boxes, each from the size that suits it."""
    feature_dim = last_maps[0].shape[1]
    vectors = [np.empty((len(boxes), feature_dim), np.float32) for boxes in boxes_xyxy]
    scales = [
        scale_of(boxes, photo.canvases[0], config)
        for boxes, photo in zip(boxes_xyxy, photos, strict=True)
    ]
    for scale, last_map in enumerate(last_maps):
        rows = [np.flatnonzero(chosen == scale) for chosen in scales]
        here = [
            torch.from_numpy(boxes[some] * photo.canvases[scale].scale())
            for boxes, some, photo in zip(boxes_xyxy, rows, photos, strict=True)
        ]
        for vector, some, pooled in zip(
            vectors, rows, pool(last_map, here, stride, config.roi_size), strict=True
        ):
            vector[some] = pooled.cpu().numpy()
    return vectors


def pool(
    last_map: Float[Tensor, "B F H_s W_s"],
    boxes_xyxy: list[Float[Tensor, "K 4"]],
    stride: int,
    roi_size: int,
) -> list[Float[Tensor, "K F"]]:
    """RoIAlign at boxes in canvas pixels, then the mean over the bins."""
    bins = roi_align(
        last_map.float(),
        [boxes.to(last_map.device) for boxes in boxes_xyxy],
        roi_size,
        spatial_scale=1 / stride,
        sampling_ratio=SAMPLES_PER_BIN,
        aligned=True,
    )
    return list(bins.mean(dim=(2, 3)).split([len(boxes) for boxes in boxes_xyxy]))


def _whole(canvas: Canvas) -> Boxes:
    height, width = canvas.photo_px
    return np.array([[0, 0, width, height]], np.float32)


def _on_photo(canvas: Canvas, proposals: Proposals) -> Boxes:
    return np.asarray(proposals.boxes_xyxy.cpu().numpy() / canvas.scale(), np.float32)


def _result(boxes_xyxy: Boxes, chosen: Proposals, vectors: Float32[np.ndarray, "K F"]) -> Extracted:
    """The whole photo and the regions, and apart from them the vectors at the extra boxes."""
    num_regions = 1 + len(chosen.scores)
    scores = np.concatenate([np.ones(1, np.float32), chosen.scores.cpu().numpy()])
    regions = Regions(vectors[:num_regions], boxes_xyxy[:num_regions], scores)
    return regions, vectors[num_regions:]
