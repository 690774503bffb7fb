"""The second stage: which proposals are products, and where exactly (Faster R-CNN; ours).

The proposal network finds whatever stands out. This head looks at each proposal again, gives it the
probability that it is a product as its detector score, and moves its edges.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from product1m.detection.libraries import (
    BoxCoder,
    MultiScaleRoIAlign,
    TwoMLPHead,
    box_iou,
    clip_boxes_to_image,
)
from product1m.training import distributed

ROI_SIZE = 7
"""RoIAlign bins per side (ours: torchvision's default)."""
MATCH_IOU = 0.5
"""A proposal with this IoU to a product shows it (ours: torchvision's default)."""
BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
"""Of center and size in the regression (ours: torchvision's defaults)."""
SMOOTH_L1_BETA = 1 / 9
"""(ours: torchvision's default)"""


class BoxHead(nn.Module):
    """Two layers on what RoIAlign takes from the pyramid; a score and a shift for each box."""

    def __init__(self, num_levels: int, channels: int, width: int) -> None:
        super().__init__()
        self.pool = MultiScaleRoIAlign([str(level) for level in range(num_levels)], ROI_SIZE, 2)
        self.layers = TwoMLPHead(channels * ROI_SIZE**2, width)
        self.score = nn.Linear(width, 1)
        self.shift = nn.Linear(width, 4)
        self.coder = BoxCoder(BOX_WEIGHTS)

    def features(
        self,
        pyramid: Sequence[Float[Tensor, "B C H_s W_s"]],
        boxes_xyxy: Sequence[Float[Tensor, "P 4"]],
        canvas_px: tuple[int, int],
    ) -> Float[Tensor, "A F"]:
        """What the layers take, for all boxes of a batch; `canvas_px` is height and width."""
        levels = {str(number): level for number, level in enumerate(pyramid)}
        pooled: Tensor = self.pool(levels, list(boxes_xyxy), [canvas_px] * len(boxes_xyxy))
        return pooled.flatten(1)

    def forward(
        self, features: Float[Tensor, "A F"]
    ) -> tuple[Float[Tensor, " A"], Float[Tensor, "A 4"]]:
        """Logits of being a product, and shifts in the coder's units."""
        hidden = self.layers(features)
        return self.score(hidden)[:, 0].float(), self.shift(hidden).float()

    def refine(
        self,
        features: Float[Tensor, "A F"],
        boxes_xyxy: Float[Tensor, "A 4"],
        inner_px: tuple[int, int],
    ) -> tuple[Float[Tensor, "A 4"], Float[Tensor, " A"]]:
        """Moved boxes, clipped to a photo of `inner_px` (height, width), and their scores."""
        logits, shifts = self(features)
        moved = self.coder.decode_single(shifts, boxes_xyxy)
        return clip_boxes_to_image(moved, inner_px), logits.sigmoid()


def targets(
    boxes_xyxy: Float[Tensor, "P 4"], true_xyxy: Float[Tensor, "K 4"], coder: BoxCoder
) -> tuple[Float[Tensor, " P"], Float[Tensor, "P 4"]]:
    """Whether each box shows a product, and the shift to the product that it overlaps most."""
    if not len(true_xyxy):
        return boxes_xyxy.new_zeros(len(boxes_xyxy)), torch.zeros_like(boxes_xyxy)
    overlaps, nearest = box_iou(boxes_xyxy, true_xyxy).max(dim=1)
    shifts = coder.encode_single(true_xyxy[nearest], boxes_xyxy)
    return (overlaps >= MATCH_IOU).to(boxes_xyxy.dtype), shifts


def head_losses(
    head: BoxHead,
    features: Float[Tensor, "A F"],
    is_product: Float[Tensor, " A"],
    shifts: Float[Tensor, "A 4"],
) -> dict[str, Tensor]:
    """Cross-entropy of the scores, and of the products' boxes the smooth L1 distance of the shifts.

    Both are sums over the boxes divided by the number of all boxes (Fast R-CNN).
    """
    logits, predicted = head(features)
    number = len(features)
    scores = functional.binary_cross_entropy_with_logits(logits, is_product)
    products = is_product > 0
    distance = functional.smooth_l1_loss(
        predicted[products], shifts[products], beta=SMOOTH_L1_BETA, reduction="sum"
    )
    means = {"product": scores, "shift": distance / number}
    return {name: distributed.weigh(mean, number) for name, mean in means.items()}
