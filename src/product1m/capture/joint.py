"""The joint transformer over the concatenation of both streams (paper)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from product1m.capture.blocks import (
    LayerSizes,
    Narrowed,
    Packing,
    PreNormBlock,
    SelfAttentionLayers,
)


class JointTransformer(nn.Module):
    """Pre-norm layers over title and regions as one sequence, with learned positions.

    A region's position does not depend on the lengths of titles in the batch. A final norm follows,
    as usual for pre-norm layers (ours; the released code has none).
    """

    def __init__(self, dim: int, max_tokens: int, max_regions: int, sizes: LayerSizes) -> None:
        super().__init__()
        self.text_position = nn.Embedding(max_tokens, dim)
        self.region_position = nn.Embedding(max_regions + 1, dim)
        self.layers = SelfAttentionLayers(PreNormBlock, dim, sizes)
        self.norm = nn.LayerNorm(dim)

    def forward(
        self,
        text: Float[Tensor, "P D"],
        text_packing: Packing,
        regions: Float[Tensor, "K D"],
        region_packing: Packing,
        read_text: Bool[Tensor, "B T"],
        read_regions: Bool[Tensor, "B R"],
    ) -> tuple[Float[Tensor, "M D"], Float[Tensor, "N D"]]:
        """Hidden states of both sides where the two masks are True, sample after sample.

        The last layer computes no others. Each sample uses its own padding mask; the released code
        repeats its masks over the heads in the wrong order, so a sample gets the masks of its
        neighbors.
        """
        text = text + self.text_position(text_packing.places())
        regions = regions + self.region_position(region_packing.places())
        packing = Packing.from_padding(torch.cat([text_packing.padding, region_packing.padding], 1))
        hidden = packing.pack(
            torch.cat([text_packing.unpack(text), region_packing.unpack(regions)], 1)
        )
        read = torch.cat([read_text, read_regions], 1)
        hidden = self.norm(self._layers(hidden, packing, packing.narrowed(read)))
        is_text = Packing.from_padding(~read).places() < read_text.shape[1]
        return hidden[is_text], hidden[~is_text]

    def _layers(
        self, hidden: Float[Tensor, "P D"], packing: Packing, read: Narrowed
    ) -> Float[Tensor, "Q D"]:
        if not len(self.layers):
            return hidden.index_select(0, read.rows)
        *earlier, last = self.layers
        for layer in earlier:
            hidden = layer(hidden, packing)
        out: Tensor = last(hidden, packing, read)
        return out
