"""The text and the visual transformer, each for one modality."""

from jaxtyping import Float
from torch import Tensor, nn

from product1m.capture.blocks import LayerSizes, Packing, PostNormBlock, SelfAttentionLayers
from product1m.capture.embeddings import RegionEmbedding, TextEmbedding


class TextStream(nn.Module):
    """Title tokens through the first layers of a BERT (paper)."""

    def __init__(self, vocabulary_size: int, max_tokens: int, dim: int, sizes: LayerSizes) -> None:
        super().__init__()
        self.embedding = TextEmbedding(vocabulary_size, max_tokens, dim, sizes.dropouts.hidden)
        self.layers = SelfAttentionLayers(PostNormBlock, dim, sizes)

    def forward(self, words: Float[Tensor, "P D"], packing: Packing) -> Float[Tensor, "P D"]:
        """Packed hidden states of the real tokens, from their word embeddings."""
        hidden: Tensor = self.layers(self.embedding(words, packing.places()), packing)
        return hidden


class VisualStream(nn.Module):
    """Regions through their own transformer (paper)."""

    def __init__(self, feature_dim: int, dim: int, sizes: LayerSizes) -> None:
        super().__init__()
        self.embedding = RegionEmbedding(feature_dim, dim, sizes.dropouts.hidden)
        self.layers = SelfAttentionLayers(PostNormBlock, dim, sizes)

    def forward(
        self, features: Float[Tensor, "P F"], places: Float[Tensor, "P 5"], packing: Packing
    ) -> Float[Tensor, "P D"]:
        """Packed hidden states of the real regions."""
        hidden: Tensor = self.layers(self.embedding(features, places), packing)
        return hidden
