"""The second stage: which proposals are products, and where exactly (Faster R-CNN; ours).

The proposal network finds whatever stands out. This head looks at each proposal again, moves its
edges, and gives it a detector score: the IoU with a product that it expects of the proposal, 0 if
it shows none. So of the boxes on one product the one that fits best has the highest score, and a
box around two products a low one.
"""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from product1m.detection.familiarity import Familiarity
from product1m.detection.libraries import (
    BoxCoder,
    TwoMLPHead,
    box_iou,
    clip_boxes_to_image,
    roi_align,
)
from product1m.training import distributed

FINEST_ROI_SIZE, ROI_SIZE = 2, 3
"""RoIAlign bins per side on the finest map, which contributes little, and on the others (ours)."""
SAMPLES_PER_BIN = 2
"""RoIAlign's sampling points a side of a bin (ours: torchvision's detectors)."""
MATCH_IOU = 0.5
"""A proposal shows a product if their IoU is at least this (ours: torchvision's default)."""
BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
"""Weights of center and size in the regression (ours: torchvision's defaults)."""
SMOOTH_L1_BETA = 1 / 9
"""Distance at which the box loss turns from quadratic to linear (ours: torchvision's default)."""
SHIFT_WEIGHT = 2.0
"""Weight of the shifts' loss, relative to that of the scores (ours)."""
_MIN_DEVIATION = 0.01
"""Smallest standard deviation of a feature, relative to the mean one (ours)."""


class BoxHead(nn.Module):
    """Two layers on features that RoIAlign takes from the backbone; a score and a shift a box.

    It uses the backbone's maps and not the proposal network's pyramid, which only knows the scenes:
    with the pyramid it would find products everywhere in photos of new rooms.
    """

    mean: Float[Tensor, " F"]
    deviation: Float[Tensor, " F"]

    def __init__(self, channels: Sequence[int], strides: Sequence[int], width: int) -> None:
        super().__init__()
        self.channels, self.strides = tuple(channels), tuple(strides)
        self.roi_sizes = (FINEST_ROI_SIZE, *[ROI_SIZE] * (len(channels) - 1))
        sizes = zip(self.channels, self.roi_sizes, strict=True)
        num_features = sum(number * side**2 for number, side in sizes)
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("deviation", torch.ones(num_features))
        self.familiarity = Familiarity(sum(channels))
        self.layers = TwoMLPHead(num_features, width)
        self.score = nn.Linear(width, 1)
        self.shift = nn.Linear(width, 4)
        self.coder = BoxCoder(BOX_WEIGHTS)

    def features(
        self,
        maps: Sequence[Float[Tensor, "B C H_s W_s"]],
        boxes_xyxy: Sequence[Float[Tensor, "P 4"]],
    ) -> Float[Tensor, "A F"]:
        """Input of the layers for all boxes of a batch, which are in pixels of the canvas."""
        pooled = [
            roi_align(level.float(), list(boxes_xyxy), side, 1 / stride, SAMPLES_PER_BIN, True)
            for level, side, stride in zip(maps, self.roi_sizes, self.strides, strict=True)
        ]
        return torch.cat([level.flatten(1) for level in pooled], dim=1)

    @torch.no_grad()
    def fit(
        self,
        examples: Iterable[tuple[Float[Tensor, "A F"], Float[Tensor, " A"]]],
        min_products: int,
    ) -> None:
        """Set the features' scale and the products' distribution from examples, before training.

        An example has the features of some boxes, and 1 for each box that shows a product. Ranks
        share their examples. With fewer product boxes than `min_products`, all boxes are familiar.
        """
        number, total = 0, torch.zeros(len(self.mean), dtype=torch.float64)
        squares, products = torch.zeros_like(total), [torch.empty(0, sum(self.channels))]
        for features, overlaps in examples:
            exact = features.double().cpu()
            number += len(exact)
            total += exact.sum(dim=0)
            squares += exact.square().sum(dim=0)
            products.append(self._means(features.float().cpu()[overlaps.cpu() > 0]))
        ranks = distributed.gather_objects((number, total, squares, torch.cat(products)))
        numbers, totals, all_squares, all_products = zip(*ranks, strict=True)
        mean = torch.stack(totals).sum(dim=0) / max(sum(numbers), 1)
        variance = torch.stack(all_squares).sum(dim=0) / max(sum(numbers), 1) - mean.square()
        deviation = variance.clamp(min=0).sqrt()
        self.mean.copy_(mean)
        self.deviation.copy_(deviation + _MIN_DEVIATION * deviation.mean().clamp(min=1e-6))
        if sum(map(len, all_products)) >= min_products:
            self.familiarity.fit(torch.cat(all_products))

    def forward(
        self, features: Float[Tensor, "A F"]
    ) -> tuple[Float[Tensor, " A"], Float[Tensor, "A 4"]]:
        """For each box the logit of its score, and a shift in the coder's units."""
        hidden = self.layers((features - self.mean) / self.deviation)
        return self.score(hidden)[:, 0].float(), self.shift(hidden).float()

    def refine(
        self,
        features: Float[Tensor, "A F"],
        boxes_xyxy: Float[Tensor, "A 4"],
        inner_px: tuple[int, int],
    ) -> tuple[Float[Tensor, "A 4"], Float[Tensor, " A"]]:
        """Moved boxes, clipped to a photo of `inner_px` (height, width), and their scores.

        The score of a box that looks unlike all training products is lower.
        """
        logits, shifts = self(features)
        moved = self.coder.decode_single(shifts, boxes_xyxy)
        scores = (logits - self.familiarity(self._means(features))).sigmoid()
        return clip_boxes_to_image(moved, inner_px), scores

    def _means(self, features: Float[Tensor, "A F"]) -> Float[Tensor, "A D"]:
        """The mean of every channel over the bins."""
        bins = [side**2 for side in self.roi_sizes]
        sizes = [number * count for number, count in zip(self.channels, bins, strict=True)]
        levels = torch.split(features, sizes, dim=1)
        return torch.cat(
            [
                level.reshape(len(level), number, count).mean(dim=2)
                for level, number, count in zip(levels, self.channels, bins, strict=True)
            ],
            dim=1,
        )


def targets(
    boxes_xyxy: Float[Tensor, "P 4"], true_xyxy: Float[Tensor, "K 4"], coder: BoxCoder
) -> tuple[Float[Tensor, " P"], Float[Tensor, "P 4"]]:
    """The score that each box should get, and the shift to the product that it overlaps most.

    The score is the IoU with that product, and 0 if the box does not show it.
    """
    if not len(true_xyxy):
        return boxes_xyxy.new_zeros(len(boxes_xyxy)), torch.zeros_like(boxes_xyxy)
    overlaps, nearest = box_iou(boxes_xyxy, true_xyxy).max(dim=1)
    shifts = coder.encode_single(true_xyxy[nearest], boxes_xyxy)
    return torch.where(overlaps >= MATCH_IOU, overlaps, 0), shifts


def head_losses(
    head: BoxHead,
    features: Float[Tensor, "A F"],
    overlaps: Float[Tensor, " A"],
    shifts: Float[Tensor, "A 4"],
) -> dict[str, Tensor]:
    """Cross-entropy of the scores, and smooth L1 loss of the shifts of boxes that show a product.

    Both are sums divided by the number of all boxes (Fast R-CNN).
    """
    logits, predicted = head(features)
    number = len(features)
    scores = functional.binary_cross_entropy_with_logits(logits, overlaps)
    products = overlaps > 0
    distance = functional.smooth_l1_loss(
        predicted[products], shifts[products], beta=SMOOTH_L1_BETA, reduction="sum"
    )
    means = {"product": scores, "shift": SHIFT_WEIGHT * distance / number}
    return {name: distributed.weigh(mean, number) for name, mean in means.items()}
