"""Transformer blocks on packed sequences.

A packed tensor `[P, D]` holds the real tokens of a batch, sample after sample, and no padding:
every layer but the attention itself works on those rows alone.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from product1m.capture.embeddings import NORM_EPS


class Dropouts(NamedTuple):
    """Probabilities of dropout."""

    hidden: float
    """For the output of a block before it is added."""
    attention: float
    """For attention weights."""


@dataclass(frozen=True)
class LayerSizes:
    """Sizes of a stack of equal blocks."""

    num_layers: int
    num_heads: int
    ffn_dim: int
    dropouts: Dropouts


@dataclass(frozen=True)
class Packing:
    """Positions of the real tokens in a padded batch; every sample has at least its first."""

    padding: Bool[Tensor, "B L"]
    """True at padding."""
    rows: Int[Tensor, " P"]
    """Rows of the real tokens in the flattened batch."""

    @classmethod
    def from_padding(cls, padding: Bool[Tensor, "B L"]) -> "Packing":
        """The packing of a padding mask."""
        return cls(padding, (~padding).flatten().nonzero().squeeze(1))

    @property
    def is_full(self) -> bool:
        """Whether the batch has no padding at all."""
        return len(self.rows) == self.padding.numel()

    def attention_mask(self) -> Bool[Tensor, "B 1 1 L"] | None:
        """True where attention is allowed; None if there is no padding."""
        return None if self.is_full else ~self.padding[:, None, None, :]

    def pack(self, padded: Shaped[Tensor, "B L ..."]) -> Shaped[Tensor, "P ..."]:
        """Only the rows of real tokens."""
        return padded.flatten(0, 1).index_select(0, self.rows)

    def unpack(self, packed: Shaped[Tensor, "P ..."]) -> Shaped[Tensor, "B L ..."]:
        """The padded batch again, zero at padding."""
        B, L = self.padding.shape
        if self.is_full:
            return packed.reshape(B, L, *packed.shape[1:])
        padded = packed.new_zeros(B * L, *packed.shape[1:])
        return padded.index_copy_(0, self.rows, packed).reshape(B, L, *packed.shape[1:])

    def part(
        self, packed: Shaped[Tensor, "P ..."], rows: slice
    ) -> "tuple[Packing, Shaped[Tensor, 'Q ...']]":
        """The packing and the packed tokens of some samples."""
        lengths = (~self.padding).sum(1)
        start, count = int(lengths[: rows.start].sum()), int(lengths[rows].sum())
        return Packing.from_padding(self.padding[rows]), packed[start : start + count]

    def narrowed(self, read: Bool[Tensor, "B L"]) -> "Narrowed":
        """Only the tokens where `read` is True, at least one of every sample."""
        counts = (read & ~self.padding).sum(1)
        largest = int(counts.max()) if len(counts) else 0
        places = torch.arange(largest, device=counts.device)
        packing = Packing.from_padding(places >= counts[:, None])
        return Narrowed(self.pack(read).nonzero().squeeze(1), packing)

    def places(self) -> Int[Tensor, " P"]:
        """The position of every packed row in its sample."""
        return self.rows % self.padding.shape[1]


class Narrowed(NamedTuple):
    """Some of the real tokens of a packed batch."""

    rows: Int[Tensor, " Q"]
    """Their packed rows."""
    packing: Packing
    """Their own packing, in which each sample has only them."""


class Attention(nn.Module):
    """Multi-head attention of one packed sequence on another, or on itself."""

    def __init__(self, dim: int, attention_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.query = nn.Linear(dim, attention_dim)
        self.key = nn.Linear(dim, attention_dim)
        self.value = nn.Linear(dim, attention_dim)
        self.out = nn.Linear(attention_dim, dim)
        self.num_heads = num_heads
        self.dropout = dropout

    def forward(
        self,
        queries: Float[Tensor, "P D"],
        query_packing: Packing,
        context: Float[Tensor, "K D"],
        context_packing: Packing,
    ) -> Float[Tensor, "P D"]:
        """Every query attends to the context of its own sample, without padding."""
        with _fast_kernel(queries.device):
            attended = functional.scaled_dot_product_attention(
                self._heads(self.query(queries), query_packing),
                self._heads(self.key(context), context_packing),
                self._heads(self.value(context), context_packing),
                attn_mask=context_packing.attention_mask(),
                dropout_p=self.dropout if self.training else 0.0,
            )  # [B, heads, L, D / heads]
        mixed: Tensor = self.out(query_packing.pack(attended.transpose(1, 2).flatten(2)))
        return mixed

    def _heads(
        self, packed: Float[Tensor, "P A"], packing: Packing
    ) -> Float[Tensor, "B heads L width"]:
        padded = packing.unpack(packed)
        B, L, A = padded.shape
        return padded.view(B, L, self.num_heads, A // self.num_heads).transpose(1, 2)


def _fast_kernel(device: torch.device) -> AbstractContextManager[None]:
    """Plain matrix products for bf16 on the CPU, where the fused kernel is five times slower."""
    if device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()


class FeedForward(nn.Sequential):
    """Two linear maps with a GELU between them (paper)."""

    def __init__(self, dim: int, ffn_dim: int) -> None:
        super().__init__(nn.Linear(dim, ffn_dim), nn.GELU(), nn.Linear(ffn_dim, dim))
        self.width = ffn_dim


class _PostNorm(nn.Module):
    """Attention and feed-forward, each added and then normalized."""

    def __init__(
        self, dim: int, attention_dim: int, num_heads: int, ffn_dim: int, dropouts: Dropouts
    ) -> None:
        super().__init__()
        self.attention = Attention(dim, attention_dim, num_heads, dropouts.attention)
        self.attention_norm = nn.LayerNorm(dim, NORM_EPS)
        self.ffn = FeedForward(dim, ffn_dim)
        self.ffn_norm = nn.LayerNorm(dim, NORM_EPS)
        self.dropout = nn.Dropout(dropouts.hidden)

    def _attend(
        self,
        queries: Float[Tensor, "P D"],
        query_packing: Packing,
        context: Float[Tensor, "K D"],
        context_packing: Packing,
    ) -> Float[Tensor, "P D"]:
        attended = self.attention(queries, query_packing, context, context_packing)
        hidden = self.attention_norm(queries + self.dropout(attended))
        normed: Tensor = self.ffn_norm(hidden + self.dropout(self.ffn(hidden)))
        return normed


class PostNormBlock(_PostNorm):
    """A BERT layer: self-attention, then a feed-forward (paper)."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, dropouts: Dropouts) -> None:
        super().__init__(dim, dim, num_heads, ffn_dim, dropouts)

    def forward(self, hidden: Float[Tensor, "P D"], packing: Packing) -> Float[Tensor, "P D"]:
        """One layer over the real tokens."""
        return self._attend(hidden, packing, hidden, packing)


class CrossAttentionBlock(_PostNorm):
    """One stream attends to the other, then a feed-forward; post-norm (released code)."""

    def forward(
        self,
        queries: Float[Tensor, "P D"],
        query_packing: Packing,
        context: Float[Tensor, "K D"],
        context_packing: Packing,
    ) -> Float[Tensor, "P D"]:
        """One layer over the real tokens; padding of either stream changes nothing."""
        return self._attend(queries, query_packing, context, context_packing)


class PreNormBlock(nn.Module):
    """Self-attention and feed-forward, each normalized before and added (released code)."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, dropouts: Dropouts) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, dim, num_heads, dropouts.attention)
        self.ffn_norm = nn.LayerNorm(dim)
        self.ffn = FeedForward(dim, ffn_dim)
        self.dropout = nn.Dropout(dropouts.hidden)

    def forward(
        self, hidden: Float[Tensor, "P D"], packing: Packing, read: Narrowed | None = None
    ) -> Float[Tensor, "Q D"]:
        """One layer over the real tokens; the output only of the tokens in `read`, if given.

        They attend to all tokens, so their output is the same, and the other tokens cost nothing
        but their keys and values.
        """
        normed = self.attention_norm(hidden)
        queries, query_packing = normed, packing
        if read is not None:
            hidden, queries = hidden.index_select(0, read.rows), normed.index_select(0, read.rows)
            query_packing = read.packing
        hidden = hidden + self.dropout(self.attention(queries, query_packing, normed, packing))
        out: Tensor = hidden + self.dropout(self.ffn(self.ffn_norm(hidden)))
        return out


class SelfAttentionLayers(nn.ModuleList):
    """Equal blocks of self-attention, one after the other."""

    def __init__(
        self, block: type[PostNormBlock] | type[PreNormBlock], dim: int, sizes: LayerSizes
    ) -> None:
        super().__init__(
            block(dim, sizes.num_heads, sizes.ffn_dim, sizes.dropouts)
            for _ in range(sizes.num_layers)
        )

    def forward(self, hidden: Float[Tensor, "P D"], packing: Packing) -> Float[Tensor, "P D"]:
        """The real tokens after the last block."""
        for layer in self:
            hidden = layer(hidden, packing)
        return hidden


def initialize(module: nn.Module) -> None:
    """BERT's initialization: matrices normal with deviation 0.02, biases zero (released code)."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def rows_of_first(packing: Packing) -> Int[Tensor, " B"]:
    """The packed row of every sample's first token."""
    lengths = (~packing.padding).sum(1)
    return torch.cumsum(lengths, 0) - lengths
