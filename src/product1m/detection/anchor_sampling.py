"""Which anchors count in the losses."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from product1m.detection.libraries import BalancedPositiveNegativeSampler
from product1m.training import distributed

Masks = tuple[list[Tensor], list[Tensor]]


class AnchorSampler(BalancedPositiveNegativeSampler):  # type: ignore[misc]  # torchvision is untyped
    """torchvision's sampler; with several ranks it counts the anchors that it samples."""

    num_sampled = 0
    """Anchors sampled in the last call; the losses are means over them."""

    def __call__(self, labels: Sequence[Float[Tensor, " A"]]) -> Masks:
        """Masks of the sampled positive and negative anchors of every image."""
        masks: Masks = super().__call__(labels)
        if distributed.world_size() > 1:  # the count waits for the GPU, and only ranks need it
            self.num_sampled = int(sum(mask.sum() for kind in masks for mask in kind))
        return masks
