"""The text and the visual transformer: each modality by itself."""

from jaxtyping import Float, Int
from torch import Tensor, nn

from product1m.capture.blocks import Dropouts, Packing, PostNormBlock
from product1m.capture.embeddings import RegionEmbedding, TextEmbedding


class TextStream(nn.Module):
    """Title tokens through the first layers of a BERT (paper)."""

    def __init__(
        self,
        vocabulary_size: int,
        max_tokens: int,
        dim: int,
        *,
        num_layers: int,
        num_heads: int,
        ffn_dim: int,
        dropouts: Dropouts,
    ) -> None:
        super().__init__()
        self.embedding = TextEmbedding(vocabulary_size, max_tokens, dim, dropouts.hidden)
        self.layers = nn.ModuleList(
            PostNormBlock(dim, num_heads, ffn_dim, dropouts) for _ in range(num_layers)
        )

    def forward(self, tokens: Int[Tensor, "B T"], packing: Packing) -> Float[Tensor, "P D"]:
        """Packed hidden states of the real tokens."""
        hidden: Tensor = self.embedding(packing.pack(tokens), packing.places())
        for layer in self.layers:
            hidden = layer(hidden, packing)
        return hidden


class VisualStream(nn.Module):
    """Regions through their own transformer (paper)."""

    def __init__(
        self,
        feature_dim: int,
        dim: int,
        *,
        num_layers: int,
        num_heads: int,
        ffn_dim: int,
        dropouts: Dropouts,
    ) -> None:
        super().__init__()
        self.embedding = RegionEmbedding(feature_dim, dim, dropouts.hidden)
        self.layers = nn.ModuleList(
            PostNormBlock(dim, num_heads, ffn_dim, dropouts) for _ in range(num_layers)
        )

    def forward(
        self, features: Float[Tensor, "P F"], places: Float[Tensor, "P 5"], packing: Packing
    ) -> Float[Tensor, "P D"]:
        """Packed hidden states of the real regions."""
        hidden: Tensor = self.embedding(features, places)
        for layer in self.layers:
            hidden = layer(hidden, packing)
        return hidden
