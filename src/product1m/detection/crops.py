"""Feature vectors of parts of a photo, each encoded like a whole photo."""

import numpy as np
import torch
from jaxtyping import Float16, Float32

from product1m.data.geometry import Boxes
from product1m.data.photos import Photo
from product1m.detection.canvas import stack_canvases
from product1m.detection.extraction import RegionSettings
from product1m.detection.pooling import pool, scale_of
from product1m.detection.proposals import ProposalNetwork
from product1m.detection.spread import spread
from product1m.detection.untrained_boxes import whole_image_box


def encode_crops(
    network: ProposalNetwork, photo: Photo, boxes_xyxy: Boxes, settings: RegionSettings
) -> Float16[np.ndarray, "K F"]:
    """The vector of each crop as if it were a gallery photo: that of the whole-photo region.

    `boxes_xyxy` are in the photo's pixels; a crop is widened to whole pixels.
    """
    crops = cut_out(photo, boxes_xyxy)
    vectors = spread(lambda crop: encode_crop(network, crop, settings), crops, network.device)
    return np.stack(vectors).astype(np.float16)


def cut_out(photo: Photo, boxes_xyxy: Boxes) -> list[Photo]:
    """What boxes show of a photo, each widened to whole pixels; at least one pixel."""
    limits = np.array(photo.shape[1::-1])  # width, height
    low = np.clip(np.floor(boxes_xyxy[:, :2]), 0, limits - 1).astype(int)
    high = np.clip(np.ceil(boxes_xyxy[:, 2:]), low + 1, limits).astype(int)
    return [
        np.ascontiguousarray(photo[top:bottom, left:right])
        for (left, top), (right, bottom) in zip(low.tolist(), high.tolist(), strict=True)
    ]


@torch.inference_mode()
def encode_crop(
    network: ProposalNetwork, crop: Photo, settings: RegionSettings
) -> Float32[np.ndarray, " F"]:
    """The vector of a crop at full size: that of its whole-photo region."""
    height, width = crop.shape[:2]
    whole = whole_image_box(width, height)
    scales = scale_of(
        whole, network.canvas(crop), settings.canonical_side_px, settings.photo_scales
    )
    canvas = network.canvas(crop, 2 ** int(scales[0]))
    with torch.autocast(network.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
        last_map = network(stack_canvases([canvas]).to(network.device))[-1]
    box = torch.from_numpy(whole * canvas.scale())
    (vector,) = pool(last_map, [box], network.backbone.strides[-1], settings.roi_size)
    return np.asarray(vector[0].cpu().numpy())
