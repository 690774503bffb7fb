"""How different a box looks from the training products (ours).

A classifier can be as sure of a lamp that it never saw as of a product. The products' vectors vary
around their mean in a few directions. A vector far from these looks like nothing seen in training,
so its box gets a lower score, however sure the classifier is.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

NUM_DIRECTIONS = 48
"""Number of directions in which the products' vectors vary most (ours)."""
TOLERANCE = 1.5
"""Only distances this many standard deviations above the products' mean count (ours)."""
WEIGHT = 0.5
"""Logits by which each further standard deviation lowers a box's score (ours)."""


class Familiarity(nn.Module):
    """Mean, main directions and spread of the products' vectors; before `fit`, all are familiar."""

    center: Float[Tensor, " D"]
    directions: Float[Tensor, "K D"]
    spread: Float[Tensor, " K"]
    usual: Float[Tensor, "2 2"]

    def __init__(self, dim: int) -> None:
        super().__init__()
        number = min(NUM_DIRECTIONS, dim // 2)
        self.register_buffer("center", torch.zeros(dim))
        self.register_buffer("directions", torch.zeros(number, dim))
        self.register_buffer("spread", torch.ones(number))
        # Mean and standard deviation of the products' two distances.
        self.register_buffer("usual", torch.tensor([[0.0, 0.0], [torch.inf, torch.inf]]))

    @torch.no_grad()
    def fit(self, products: Float[Tensor, "P D"]) -> None:
        """Set the products' distribution from their vectors; with fewer than four, do nothing.

        The first half of the vectors gives the directions, the second half the usual distances,
        because vectors lie closer to directions that were computed from them than others do.
        """
        if len(products) < 4:
            return
        half = len(products) // 2
        vectors = products[:half].double()
        centered = vectors - vectors.mean(dim=0)
        values, axes = torch.linalg.eigh(centered.T @ centered / len(vectors))
        number = len(self.spread)
        self.center.copy_(vectors.mean(dim=0))
        self.directions.copy_(axes[:, -number:].T)
        largest = values[-1].clamp(min=1e-12)
        self.spread.copy_(values[-number:].clamp(min=1e-6 * float(largest)).sqrt())
        distances = self._distances(products[half:].float().to(self.center.device))
        deviation = distances.std(dim=0).clamp(min=1e-6)
        self.usual.copy_(torch.stack([distances.mean(dim=0), deviation]))

    def forward(self, vectors: Float[Tensor, "A D"]) -> Float[Tensor, " A"]:
        """Logits to subtract from each box's score; 0 for a box that looks like a product."""
        mean, deviation = self.usual
        excess = (self._distances(vectors.float()) - mean) / deviation - TOLERANCE
        penalty: Tensor = WEIGHT * excess.clamp(min=0).sum(dim=1)
        return penalty

    def _distances(self, vectors: Float[Tensor, "A D"]) -> Float[Tensor, "A 2"]:
        """Distance within the directions, in units of their spread, and distance from them."""
        centered = vectors - self.center
        along = centered @ self.directions.T
        rest = centered - along @ self.directions
        within = (along / self.spread).square().mean(dim=1).sqrt()
        return torch.stack([within, rest.norm(dim=1)], dim=1)
