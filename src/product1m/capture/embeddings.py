"""Inputs of the two streams: tokens with positions, and regions with places in the photo."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

NORM_EPS = 1e-12
"""BERT's epsilon of every post-norm (released code)."""


class TextEmbedding(nn.Module):
    """Word, position and type embeddings, added and normalized, as in BERT (paper)."""

    def __init__(self, vocabulary_size: int, max_tokens: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.word = nn.Embedding(vocabulary_size, dim)
        self.position = nn.Embedding(max_tokens, dim)
        self.segment = nn.Embedding(2, dim)
        self.norm = nn.LayerNorm(dim, NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, words: Float[Tensor, "P D"], positions: Int[Tensor, " P"]
    ) -> Float[Tensor, "P D"]:
        """Add positions in the title to word embeddings; all have type 0 (released code).

        The caller looks the words up in `word`, once for all that it needs them for.
        """
        summed = words + self.position(positions) + self.segment.weight[0]
        hidden: Tensor = self.dropout(self.norm(summed))
        return hidden


class RegionEmbedding(nn.Module):
    """A linear map of the feature plus a linear map of the place, normalized (released code)."""

    def __init__(self, feature_dim: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.feature = nn.Linear(feature_dim, dim)
        self.place = nn.Linear(5, dim)
        self.norm = nn.LayerNorm(dim, NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, features: Float[Tensor, "P F"], places: Float[Tensor, "P 5"]
    ) -> Float[Tensor, "P D"]:
        """Embed standardized features and places (x1, y1, x2, y2, area; relative)."""
        hidden: Tensor = self.dropout(self.norm(self.feature(features) + self.place(places)))
        return hidden


class Standardization(nn.Module):
    """Region features minus the train items' mean, divided by their standard deviation (ours)."""

    mean: Float[Tensor, " F"]
    deviation: Float[Tensor, " F"]

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(feature_dim))
        self.register_buffer("deviation", torch.ones(feature_dim))

    def fit(self, mean: Float[Tensor, " F"], deviation: Float[Tensor, " F"]) -> None:
        """Set the train items' mean and standard deviation; a constant dimension is not scaled."""
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(deviation < 1e-6, torch.ones_like(deviation), deviation))

    def forward(self, features: Float[Tensor, "*L F"]) -> Float[Tensor, "*L F"]:
        """Standardize in float32, whatever the type of the stored features."""
        return (features.float() - self.mean) / self.deviation
