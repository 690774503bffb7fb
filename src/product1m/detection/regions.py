"""Photos to region features: proposals, NMS, RoIAlign on the last stage, its mean (paper)."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float16, Float32
from torch import Tensor
from torchvision.ops import nms, roi_align

from product1m.config import FeatureExtractionConfig
from product1m.data.photos import Photo
from product1m.data.region_features import Regions
from product1m.detection.canvas import Canvas, batches_of_one_size, stack_canvases
from product1m.detection.rpn import ProposalNetwork, Proposals

SAMPLES_PER_BIN = 2
"""RoIAlign's sampling points a side of a bin (ours: torchvision's detectors)."""

Boxes = Float32[np.ndarray, "K 4"]
Extracted = tuple[Regions, Float16[np.ndarray, "K F"]]


def extract_regions(
    network: ProposalNetwork,
    photos: Sequence[Photo],
    config: FeatureExtractionConfig,
    extra_boxes: Sequence[Boxes] | None = None,
) -> list[Extracted]:
    """The regions of every photo, the whole photo first, and vectors at given boxes.

    A photo's result does not depend on the other photos.

    Args:
        network: as `load_rpn` gives it.
        photos: any sizes.
        config: how many regions, and how they are pooled.
        extra_boxes: for every photo boxes in its own pixels whose vectors are wanted too.
    """
    canvases = [network.canvas(photo) for photo in photos]
    return extract_from_canvases(network, canvases, config, extra_boxes)


def extract_from_canvases(
    network: ProposalNetwork,
    canvases: Sequence[Canvas],
    config: FeatureExtractionConfig,
    extra_boxes: Sequence[Boxes] | None = None,
) -> list[Extracted]:
    """`extract_regions` of photos that are on their canvases already."""
    extra = extra_boxes or [np.empty((0, 4), np.float32)] * len(canvases)
    found: dict[int, Extracted] = {}
    for positions in batches_of_one_size(canvases, config.batch_size):
        results = _extract_batch(
            network, [canvases[i] for i in positions], [extra[i] for i in positions], config
        )
        found.update(zip(positions, results, strict=True))
    return [found[position] for position in range(len(canvases))]


@torch.inference_mode()
def _extract_batch(
    network: ProposalNetwork,
    canvases: list[Canvas],
    extra_boxes: list[Boxes],
    config: FeatureExtractionConfig,
) -> list[Extracted]:
    with torch.autocast(network.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        maps = network(stack_canvases(canvases).to(network.device))
        proposals = network.propose(maps, [canvas.inner_px for canvas in canvases])
    kept = [select(proposal, config) for proposal in proposals]
    boxes = [
        torch.cat([_whole(canvas), chosen.boxes_xyxy.cpu(), _on_canvas(canvas, extra)])
        for canvas, chosen, extra in zip(canvases, kept, extra_boxes, strict=True)
    ]
    vectors = pool(maps[-1], boxes, network.backbone.strides[-1], config.roi_size)
    return [
        _result(canvas, chosen, rows)
        for canvas, chosen, rows in zip(canvases, kept, vectors, strict=True)
    ]


def select(proposals: Proposals, config: FeatureExtractionConfig) -> Proposals:
    """Class-agnostic NMS, then the best `min_regions`, and more of them above `min_score`."""
    kept = nms(proposals.boxes_xyxy, proposals.scores, config.nms_iou)[: config.max_regions]
    confident = int((proposals.scores[kept] >= config.min_score).sum())
    kept = kept[: max(confident, config.min_regions)]
    return Proposals(proposals.boxes_xyxy[kept], proposals.scores[kept])


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
    vectors = bins.mean(dim=(2, 3))
    return list(vectors.split([len(boxes) for boxes in boxes_xyxy]))


def _whole(canvas: Canvas) -> Float[Tensor, "1 4"]:
    height, width = canvas.inner_px
    return torch.tensor([[0.0, 0.0, width, height]])


def _on_canvas(canvas: Canvas, boxes: Boxes) -> Float[Tensor, "K 4"]:
    return torch.from_numpy(np.asarray(boxes, np.float32).reshape(-1, 4) * canvas.scale())


def _result(canvas: Canvas, chosen: Proposals, vectors: Float[Tensor, "K F"]) -> Extracted:
    """Regions in the stored photo's pixels, and the vectors that follow them."""
    num_regions = 1 + len(chosen.scores)
    features = vectors.cpu().numpy().astype(np.float16)
    height, width = canvas.photo_px
    boxes = np.concatenate(
        [
            np.array([[0, 0, width, height]], np.float32),
            chosen.boxes_xyxy.cpu().numpy() / canvas.scale(),
        ]
    )
    scores = np.concatenate([np.ones(1), chosen.scores.cpu().numpy()])
    regions = Regions(features[:num_regions], boxes.astype(np.float32), scores.astype(np.float32))
    return regions, features[num_regions:]
