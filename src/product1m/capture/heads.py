"""Heads on the hidden states: embeddings for retrieval, predictions for the pretext tasks."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class Projection(nn.Sequential):
    """Maps a token's hidden state to an embedding, optionally with a final ReLU (released code)."""

    def __init__(self, dim: int, projection_dim: int, relu: bool) -> None:
        layers: list[nn.Module] = [nn.Linear(dim, projection_dim)]
        super().__init__(*layers, *([nn.ReLU()] if relu else []))


class InputSkip(nn.Module):
    """Adds a linear map of a stream's pooled raw input to its embedding (ours).

    A learned factor scales the transformer's part, so training on a small data set starts from the
    raw input and learns how much the transformer adds.
    """

    def __init__(self, input_dim: int, projection_dim: int, factor: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(input_dim)
        self.linear = nn.Linear(input_dim, projection_dim)
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(
        self, embedding: Float[Tensor, "B E"], pooled: Float[Tensor, "B F"]
    ) -> Float[Tensor, "B E"]:
        """The scaled embedding plus the linear map of the pooled input."""
        skipped: Tensor = self.factor * embedding + self.linear(self.norm(pooled))
        return skipped


class MaskedLanguageHead(nn.Module):
    """Predicts masked tokens; its decoder is the word embedding itself (paper: BERT)."""

    def __init__(self, dim: int, vocabulary_size: int) -> None:
        super().__init__()
        self.transform = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim))
        self.bias = nn.Parameter(torch.zeros(vocabulary_size))

    def forward(
        self, hidden: Float[Tensor, "M D"], word_embedding: Float[Tensor, "V D"]
    ) -> Float[Tensor, "M V"]:
        """Scores of every token of the vocabulary, only for the masked positions."""
        return functional.linear(self.transform(hidden), word_embedding, self.bias)


class MaskedRegionHead(nn.Sequential):
    """Predicts the standardized feature of masked regions (paper)."""

    def __init__(self, dim: int, feature_dim: int) -> None:
        super().__init__(
            nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim), nn.Linear(dim, feature_dim)
        )


class MatchingHead(nn.Module):
    """Predicts whether a title and a photo match, from the product of their joint tokens."""

    def __init__(self, projection_dim: int) -> None:
        super().__init__()
        self.score = nn.Sequential(
            nn.Linear(projection_dim, projection_dim), nn.GELU(), nn.Linear(projection_dim, 1)
        )

    def forward(
        self, text: Float[Tensor, "B E"], image: Float[Tensor, "B E"]
    ) -> Float[Tensor, " B"]:
        """One logit per pair; positive for a match."""
        logits: Tensor = self.score(text * image).squeeze(1)
        return logits
