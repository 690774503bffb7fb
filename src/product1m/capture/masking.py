"""Masks: which tokens and regions of a batch the pretext tasks hide."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from product1m.capture.pairs import OnDevice, Pairs
from product1m.capture.tokens import TitleTokenizer
from product1m.data.geometry import pairwise_iou

MASK_SHARE, RANDOM_SHARE = 0.8, 0.1
"""Shares of the masked tokens that become [MASK] and a random token; others stay (paper: BERT)."""
ZERO_SHARE = 0.9
"""Share of the masked regions that lose their feature; others keep it (released code)."""


@dataclass(frozen=True)
class Masking(OnDevice):
    """What the masked tasks hide, and what the model must predict."""

    tokens: Int[Tensor, "B T"]
    """The tokens that the model sees."""
    masked_tokens: Bool[Tensor, "B T"]
    """Positions whose token the model must predict."""
    masked_regions: Bool[Tensor, "B R"]
    """Regions whose feature the model must predict."""
    hidden_regions: Bool[Tensor, "B R"]
    """Masked regions whose feature the model does not see."""


def mask_pairs(
    pairs: Pairs,
    num_masked_pairs: int,
    tokenizer: TitleTokenizer,
    generator: np.random.Generator,
    *,
    token_probability: float,
    region_probability: float,
    region_overlap: float = 1.0,
) -> Masking:
    """Mask tokens and regions of the first `num_masked_pairs` pairs; the others stay as they are.

    [CLS], [SEP], padding and the whole photo are never masked (ours; released code: photo too).

    Args:
        pairs: the batch; it is not changed.
        num_masked_pairs: number of pairs to mask.
        tokenizer: knows the special tokens; a random token is never special (ours).
        generator: draws the masks.
        token_probability: probability to mask a token of a title.
        region_probability: probability to mask a region other than the first.
        region_overlap: a region whose IoU with a masked one is larger is masked too, so that it
            does not reveal the answer; 1 for never (ours).
    """
    rows = np.arange(len(pairs)) < num_masked_pairs
    shown, masked_tokens = _mask_tokens(pairs, rows, tokenizer, generator, token_probability)
    free = ~pairs.region_padding.numpy() & rows[:, None]
    free[:, 0] = False
    masked_regions = free & (generator.random(free.shape) < region_probability)
    hidden = masked_regions & (generator.random(free.shape) < ZERO_SHARE)
    if region_overlap < 1:
        overlapping = pairwise_iou(pairs.places[..., :4].numpy()) > region_overlap  # [B, R, R]
        spread = np.einsum("brq,bq->br", overlapping, masked_regions) > 0
        spread_hidden = np.einsum("brq,bq->br", overlapping, hidden) > 0
        masked_regions, hidden = masked_regions | spread & free, hidden | spread_hidden & free
    arrays = (shown, masked_tokens, masked_regions, hidden)
    return Masking(*(torch.from_numpy(array) for array in arrays))


def _mask_tokens(
    pairs: Pairs,
    rows: Bool[np.ndarray, " B"],
    tokenizer: TitleTokenizer,
    generator: np.random.Generator,
    probability: float,
) -> tuple[Int[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]:
    """The tokens that the model sees, and which are masked."""
    tokens = pairs.tokens.numpy()
    draw, kind = generator.random(tokens.shape), generator.random(tokens.shape)
    random_tokens = generator.choice(tokenizer.ordinary, tokens.shape)
    words = ~pairs.text_padding.numpy() & (tokens != tokenizer.cls) & (tokens != tokenizer.sep)
    masked = words & (draw < probability) & rows[:, None]
    shown = np.where(masked & (kind < MASK_SHARE), tokenizer.mask, tokens)
    replaced = masked & (kind >= MASK_SHARE) & (kind < MASK_SHARE + RANDOM_SHARE)
    return np.where(replaced, random_tokens, shown).astype(np.int64), masked
