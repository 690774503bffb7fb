"""The cross transformers: the streams exchange keys and values (paper)."""

from jaxtyping import Float
from torch import Tensor, nn

from product1m.capture.blocks import CrossAttentionBlock, LayerSizes, Packing


class CrossTransformer(nn.Module):
    """Layers in which text attends to regions while regions attend to text (paper)."""

    def __init__(self, dim: int, attention_dim: int, text: LayerSizes, visual: LayerSizes) -> None:
        super().__init__()

        def blocks(sizes: LayerSizes) -> nn.ModuleList:
            return nn.ModuleList(
                CrossAttentionBlock(
                    dim, attention_dim, sizes.num_heads, sizes.ffn_dim, sizes.dropouts
                )
                for _ in range(sizes.num_layers)
            )

        self.text_layers = blocks(text)
        self.visual_layers = blocks(visual)

    def forward(
        self,
        text: Float[Tensor, "P D"],
        text_packing: Packing,
        regions: Float[Tensor, "K D"],
        region_packing: Packing,
    ) -> tuple[Float[Tensor, "P D"], Float[Tensor, "K D"]]:
        """In each layer, both sides attend to the other side's input of that layer."""
        for text_layer, visual_layer in zip(self.text_layers, self.visual_layers, strict=True):
            text, regions = (
                text_layer(text, text_packing, regions, region_packing),
                visual_layer(regions, region_packing, text, text_packing),
            )
        return text, regions
