"""The released model for timing: its sizes and the operations it consists of, in their order.

Written from a description of the released code, which computes GELU and LayerNorm as elementary
operations (a fused LayerNorm only where NVIDIA's apex is installed), pads every title to 36 tokens
and every photo to 37 regions, predicts at all positions, masked or not, and updates one tensor
after the other. With `fused`, PyTorch's fused kernels replace the elementary operations: what
remains is its design alone.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from product1m.capture.batches import PretrainingBatch
from product1m.capture.losses import released_contrastive_loss

T, R, V, F, D, E = 36, 37, 21_128, 2048, 768, 512
JOINT_LAYERS, OTHER_LAYERS = 6, 4
NUM_PLACES = 512


class ElementaryNorm(nn.Module):
    """Layer normalization, operation by operation."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, hidden: Tensor) -> Tensor:
        """Normalize the last dimension."""
        mean = hidden.mean(-1, keepdim=True)
        variance = (hidden - mean).pow(2).mean(-1, keepdim=True)
        return self.weight * ((hidden - mean) / torch.sqrt(variance + 1e-12)) + self.bias


class ElementaryGelu(nn.Module):
    """The exact GELU, operation by operation."""

    def forward(self, hidden: Tensor) -> Tensor:
        """The activation of every number."""
        return hidden * 0.5 * (1.0 + torch.erf(hidden / 2**0.5))


class QuickGelu(nn.Module):
    """The joint layers' activation."""

    def forward(self, hidden: Tensor) -> Tensor:
        """The activation of every number."""
        return hidden * torch.sigmoid(1.702 * hidden)


def norm(fused: bool) -> nn.Module:
    """A layer normalization of a layer's width."""
    return nn.LayerNorm(D, 1e-12) if fused else ElementaryNorm(D)


def gelu(fused: bool) -> nn.Module:
    """The activation of every other layer."""
    return nn.GELU() if fused else ElementaryGelu()


class Attention(nn.Module):
    """Attention as explicit products over padded sequences, with low scores for padding."""

    def __init__(self, inner: int, heads: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(D, inner) for _ in range(3))
        self.out, self.heads = nn.Linear(inner, D), heads
        self.dropout = nn.Dropout(0.1)

    def forward(self, queries: Tensor, context: Tensor, scores_of_padding: Tensor) -> Tensor:
        """Attend to `context`."""
        q, k, v = (
            rows.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for rows in (self.query(queries), self.key(context), self.value(context))
        )
        scores = q @ k.transpose(2, 3) / q.shape[3] ** 0.5 + scores_of_padding
        mixed = self.dropout(scores.softmax(3)) @ v
        attended: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return attended


class Layer(nn.Module):
    """Attention and feed-forward with norms after, as in BERT."""

    def __init__(self, inner: int, heads: int, ffn: int, fused: bool) -> None:
        super().__init__()
        self.attention = Attention(inner, heads)
        self.ffn = nn.Sequential(nn.Linear(D, ffn), gelu(fused), nn.Linear(ffn, D))
        self.norms = nn.ModuleList(norm(fused) for _ in range(2))
        self.dropout = nn.Dropout(0.1)

    def forward(self, hidden: Tensor, context: Tensor, scores_of_padding: Tensor) -> Tensor:
        """One layer; the rows may attend to themselves."""
        first, second = self.norms
        attended = self.attention(hidden, context, scores_of_padding)
        hidden = first(self.dropout(attended) + hidden)
        out: Tensor = second(self.dropout(self.ffn(hidden)) + hidden)
        return out


class JointLayer(nn.Module):
    """PyTorch's attention and a feed-forward, normalized before; no dropout."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(D, 8)
        self.ffn = nn.Sequential(nn.Linear(D, 4 * D), QuickGelu(), nn.Linear(4 * D, D))
        self.norms = nn.ModuleList(norm(fused) for _ in range(2))

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """`hidden` has the positions first; `mask` is [B, L, L]."""
        first, second = self.norms
        normed, masks = first(hidden), mask.repeat(8, 1, 1)
        attended = self.attention(normed, normed, normed, need_weights=False, attn_mask=masks)
        hidden = hidden + attended[0]
        out: Tensor = hidden + self.ffn(second(hidden))
        return out


class ReleasedModel(nn.Module):
    """The network and its three losses."""

    def __init__(self, fused: bool = False) -> None:
        super().__init__()
        self.word = nn.Embedding(V, D, padding_idx=0)
        self.place, self.kind = nn.Embedding(NUM_PLACES, D), nn.Embedding(2, D)
        self.feature, self.box = nn.Linear(F, D), nn.Linear(5, D)
        self.norms = nn.ModuleList(norm(fused) for _ in range(2))
        self.dropout = nn.Dropout(0.1)
        n = OTHER_LAYERS
        self.text = nn.ModuleList(Layer(D, 12, 3072, fused) for _ in range(n))
        self.visual = nn.ModuleList(Layer(D, 8, 1024, fused) for _ in range(n))
        self.to_text = nn.ModuleList(Layer(512, 8, 3072, fused) for _ in range(n))
        self.to_visual = nn.ModuleList(Layer(512, 8, 1024, fused) for _ in range(n))
        self.joint = nn.ModuleList(JointLayer(fused) for _ in range(JOINT_LAYERS))
        self.joint_place = nn.Embedding(NUM_PLACES, D)
        self.pools = nn.ModuleList(nn.Linear(D, E) for _ in range(4))
        self.language = nn.Sequential(nn.Linear(E, D), nn.Linear(D, D), gelu(fused), norm(fused))
        self.word_bias = nn.Parameter(torch.zeros(V))
        self.regions = nn.Sequential(
            nn.Linear(E, D), nn.Linear(D, D), gelu(fused), norm(fused), nn.Linear(D, F)
        )

    def forward(self, batch: PretrainingBatch) -> dict[str, Tensor]:
        """The three losses of a batch."""
        pairs, masking = batch.pairs, batch.masking
        features = pairs.features.float()
        text_scores, region_scores = (
            -10_000.0 * padding[:, None, None, :].float()
            for padding in (pairs.text_padding, pairs.region_padding)
        )
        text, visual = self._embed(batch, features)
        for layer in self.text:
            text = layer(text, text, text_scores)
        for layer in self.visual:
            visual = layer(visual, visual, region_scores)
        title, photo = self.pools[0](text[:, 0]).relu(), self.pools[1](visual[:, 0]).relu()
        for to_text, to_visual in zip(self.to_text, self.to_visual, strict=True):
            text, visual = (
                to_text(text, visual, region_scores),
                to_visual(visual, text, text_scores),
            )
        both = self._join(text, visual, torch.cat([pairs.text_padding, pairs.region_padding], 1))
        words = self.language(self.pools[2](both[:, :T]).relu()) @ self.word.weight.T
        predicted = self.regions(self.pools[3](both[:, T:]).relu())
        chosen, masked = masking.masked_tokens, masking.masked_regions
        language = functional.cross_entropy(
            (words + self.word_bias).flatten(0, 1),
            pairs.tokens.masked_fill(~chosen, -1).flatten(),
            ignore_index=-1,
        )
        squares = functional.mse_loss(predicted, features, reduction="none")
        return {
            "masked_language": language,
            "masked_region": (squares * masked[:, :, None].float()).sum()
            / (masked.sum().clamp(min=1) * F),
            "contrast": released_contrastive_loss(title, photo, batch.groups, 0.07),
        }

    def _embed(self, batch: PretrainingBatch, features: Tensor) -> tuple[Tensor, Tensor]:
        tokens = batch.masking.tokens
        places = torch.arange(T).expand_as(tokens)
        text = self.word(tokens) + self.place(places) + self.kind(torch.zeros_like(tokens))
        shown = features.masked_fill(batch.masking.hidden_regions[:, :, None], 0)
        visual = self.feature(shown) + self.box(batch.pairs.places)
        first, second = self.norms
        return self.dropout(first(text)), self.dropout(second(visual))

    def _join(self, text: Tensor, visual: Tensor, padding: Tensor) -> Tensor:
        both = torch.cat([text, visual], 1)
        both = self.dropout(both + self.joint_place(torch.arange(T + R).expand(len(both), -1)))
        mask = (-1e6 * padding[:, None, :].float()).expand(-1, T + R, -1)
        both = both.transpose(0, 1)
        for layer in self.joint:
            both = layer(both, mask)
        joined: Tensor = both.transpose(0, 1)
        return joined


class ReleasedOptimizer:
    """Adam without bias correction, after clipping each tensor by itself (released code)."""

    def __init__(self, parameters: Sequence[nn.Parameter], learning_rate: float) -> None:
        self.parameters, self.learning_rate = list(parameters), learning_rate
        self.means = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.squares = [torch.zeros_like(parameter) for parameter in self.parameters]

    @torch.no_grad()
    def step(self) -> None:
        """One update, tensor by tensor."""
        for parameter, mean, square in zip(self.parameters, self.means, self.squares, strict=True):
            gradient = parameter.grad
            if gradient is None:
                continue
            nn.utils.clip_grad_norm_(parameter, 1.0)
            mean.mul_(0.9).add_(gradient, alpha=0.1)
            square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            update = mean / (square.sqrt() + 1e-6)
            parameter.add_(-(self.learning_rate * update))
