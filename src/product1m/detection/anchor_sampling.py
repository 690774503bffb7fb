"""Which anchors count in the losses: the same ones however many ranks share the batch."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from product1m.training import distributed

Masks = tuple[list[Tensor], list[Tensor]]


class AnchorSampler(BalancedPositiveNegativeSampler):  # type: ignore[misc]  # torchvision is untyped
    """torchvision's sampler, which draws for one image after the other.

    A rank draws for the images of the others too, and drops it, so that its own images get what
    they would get from a single process.
    """

    num_sampled = 0
    """Anchors of this rank's images in the last call, which the losses are means over."""

    def __call__(self, labels: Sequence[Float[Tensor, " A"]]) -> Masks:
        """For every image the positive anchors that count, and the negative ones."""
        if distributed.world_size() == 1:
            masks: Masks = super().__call__(labels)
            return masks
        counts = torch.tensor(
            [[int((one >= 1).sum()), int((one == 0).sum())] for one in labels],
            device=labels[0].device,
        )
        before, after = distributed.around(counts)
        with distributed.common_randomness():
            _skip(before.tolist(), labels[0].device)
            masks = super().__call__(labels)
            _skip(after.tolist(), labels[0].device)
        self.num_sampled = int(sum(mask.sum() for kind in masks for mask in kind))
        return masks


def _skip(counts: Sequence[Sequence[int]], device: torch.device) -> None:
    """Draw what the library draws for images with so many positives and negatives."""
    for positives, negatives in counts:
        torch.randperm(positives, device=device)
        torch.randperm(negatives, device=device)
