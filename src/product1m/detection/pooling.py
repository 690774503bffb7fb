"""Feature vectors of boxes: RoIAlign on the last stage, then its mean (paper).

A network's features of a product depend strongly on the product's size in pixels. So a photo is
encoded at several sizes, and a box is pooled from the size that brings it closest to the canonical
size (ours).
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from product1m.data.geometry import Boxes
from product1m.detection.canvas import Canvas
from product1m.detection.libraries import roi_align

BINS = 7
"""Bins of RoIAlign a side where training compares products; the default of feature extraction."""
SAMPLES_PER_BIN = 2
"""RoIAlign's sampling points a side of a bin (ours: torchvision's detectors)."""


def scale_of(
    boxes_xyxy: Boxes, canvas: Canvas, canonical_side_px: int, num_scales: int
) -> Int[np.ndarray, " K"]:
    """Index of the size at which each box is pooled: 0 is the network's own size, 1 half of it.

    At that size the square root of the box's area is closest to `canonical_side_px`, by factor.
    `boxes_xyxy` are in pixels of the photo; `canvas` is the largest one.
    """
    boxes = boxes_xyxy * canvas.scale()
    sides = np.sqrt(np.clip(boxes[:, 2:] - boxes[:, :2], 1.0, None).prod(axis=1))
    halvings = np.rint(np.log2(sides / canonical_side_px))
    return np.asarray(np.clip(halvings, 0, num_scales - 1).astype(np.int64))


def pool(
    last_map: Float[Tensor, "B F H_s W_s"],
    boxes_xyxy: Sequence[Float[Tensor, "K 4"]],
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


def pool_from_scales(
    last_maps: Sequence[Float[Tensor, "B F H_s W_s"]],
    canvases: Sequence[Sequence[Canvas]],
    boxes_xyxy: Sequence[Boxes],
    *,
    stride: int,
    roi_size: int,
    canonical_side_px: int,
) -> list[Float32[np.ndarray, "K F"]]:
    """The vectors of every photo's boxes, each from the size that suits it.

    `last_maps[s]` is the batch's map at size s, `canvases[b][s]` the photo b at that size, and
    `boxes_xyxy[b]` its boxes in pixels of the photo.
    """
    feature_dim = last_maps[0].shape[1]
    vectors = [np.empty((len(boxes), feature_dim), np.float32) for boxes in boxes_xyxy]
    scales = [
        scale_of(boxes, sizes[0], canonical_side_px, len(last_maps))
        for boxes, sizes in zip(boxes_xyxy, canvases, strict=True)
    ]
    for scale, last_map in enumerate(last_maps):
        rows = [np.flatnonzero(chosen == scale) for chosen in scales]
        on_canvas = [
            torch.from_numpy(boxes[some] * sizes[scale].scale())
            for boxes, some, sizes in zip(boxes_xyxy, rows, canvases, strict=True)
        ]
        pooled = pool(last_map, on_canvas, stride, roi_size)
        for photo_vectors, some, new in zip(vectors, rows, pooled, strict=True):
            photo_vectors[some] = new.cpu().numpy()
    return vectors
