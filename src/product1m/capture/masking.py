"""Padded batches of titles and regions, and what the pretext tasks hide of them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int32
from torch import Tensor

from product1m.capture.tokens import TitleTokenizer
from product1m.data.geometry import pairwise_iou
from product1m.data.regions import Regions

Tokens = Int32[np.ndarray, " T"]

MASK_SHARE, RANDOM_SHARE = 0.8, 0.1
"""Of the masked tokens so many become [MASK] and a random token; the rest stay (paper: BERT)."""
ZERO_SHARE = 0.9
"""Of the masked regions so many lose their feature; the rest keep it (released code)."""


class OnDevice:
    """A dataclass of tensors that moves as one."""

    def to(self, device: torch.device) -> Self:
        """Itself, on a device."""
        moved = {
            field.name: value.to(device) if hasattr(value, "to") else value
            for field in fields(self)  # type: ignore[arg-type]  # every subclass is a dataclass
            for value in [getattr(self, field.name)]
        }
        return type(self)(**moved)


@dataclass(frozen=True)
class Pairs(OnDevice):
    """Titles with the regions of their photos, each padded to the longest of the batch."""

    tokens: Int[Tensor, "B T"]
    text_padding: Bool[Tensor, "B T"]
    features: Float[Tensor, "B R F"]
    """As stored, float16; the whole photo (or the instance) first."""
    places: Float[Tensor, "B R 5"]
    """x1, y1, x2, y2 and area relative to the first region."""
    region_padding: Bool[Tensor, "B R"]

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class Masking(OnDevice):
    """What the masked tasks hide, and where they ask for it."""

    tokens: Int[Tensor, "B T"]
    """The tokens the model is shown."""
    masked_tokens: Bool[Tensor, "B T"]
    """Places whose token is to be told."""
    masked_regions: Bool[Tensor, "B R"]
    """Regions whose feature is to be told."""
    hidden_regions: Bool[Tensor, "B R"]
    """Those of them whose feature the model is not shown."""


def collate(titles: Sequence[Tokens], photos: Sequence[Regions], max_regions: int) -> Pairs:
    """Pad to the longest; of a photo its first region and `max_regions` more stay."""
    counts = [min(len(regions), max_regions + 1) for regions in photos]
    B, T, R = len(titles), max(len(title) for title in titles), max(counts)
    tokens, text_padding = np.zeros((B, T), np.int64), np.ones((B, T), bool)
    features = np.zeros((B, R, photos[0].features.shape[1]), photos[0].features.dtype)
    places, region_padding = np.zeros((B, R, 5), np.float32), np.ones((B, R), bool)
    for row, (title, regions, count) in enumerate(zip(titles, photos, counts, strict=True)):
        tokens[row, : len(title)], text_padding[row, : len(title)] = title, False
        features[row, :count] = regions.features[:count]
        places[row, :count] = regions.positions()[:count]
        region_padding[row, :count] = False
    arrays = (tokens, text_padding, features, places, region_padding)
    return Pairs(*(torch.from_numpy(array) for array in arrays))


@dataclass(frozen=True)
class Draws:
    """What masking draws for a batch, before it is known what the batch holds."""

    mask_token: Float[np.ndarray, "B T"]
    fate: Float[np.ndarray, "B T"]
    random_tokens: Int[np.ndarray, "B T"]
    mask_region: Float[np.ndarray, "B R"]
    hide_region: Float[np.ndarray, "B R"]

    @classmethod
    def of(
        cls,
        num_pairs: int,
        num_tokens: int,
        num_regions: int,
        tokenizer: TitleTokenizer,
        generator: np.random.Generator,
    ) -> Self:
        """Draws for a batch padded to so many tokens and regions."""
        tokens, regions = (num_pairs, num_tokens), (num_pairs, num_regions)
        return cls(
            generator.random(tokens),
            generator.random(tokens),
            generator.choice(tokenizer.ordinary, tokens),
            generator.random(regions),
            generator.random(regions),
        )

    def of_pairs(self, rows: Int[np.ndarray, " b"], pairs: Pairs) -> Self:
        """The draws of some rows of the batch, which by themselves may be padded to less."""
        tokens = np.ix_(rows, np.arange(pairs.tokens.shape[1]))
        regions = np.ix_(rows, np.arange(pairs.features.shape[1]))
        return type(self)(
            self.mask_token[tokens],
            self.fate[tokens],
            self.random_tokens[tokens],
            self.mask_region[regions],
            self.hide_region[regions],
        )


def mask_pairs(
    pairs: Pairs,
    num_masked_pairs: int,
    tokenizer: TitleTokenizer,
    draws: Draws,
    *,
    token_probability: float,
    region_probability: float,
    region_overlap: float = 1.0,
) -> Masking:
    """Mask tokens and regions of the first `num_masked_pairs` pairs; the others stay as they are.

    [CLS], [SEP], padding and the whole photo are never masked (the released code masks the last of
    these by averaging the masked regions).

    Args:
        pairs: what is to be masked; it is not changed.
        num_masked_pairs: the rest are shown whole.
        tokenizer: which tokens are special; a random token never is (ours).
        draws: the randomness, pair by pair.
        token_probability: of every token of a title.
        region_probability: of every region but the first.
        region_overlap: regions whose IoU with a masked one exceeds this are masked with it, so that
            a neighbour does not give the answer away; 1 for never (ours).
    """
    rows = np.arange(len(pairs)) < num_masked_pairs
    shown, masked_tokens = _mask_tokens(pairs, rows, tokenizer, draws, token_probability)
    masked_regions = _choose_regions(pairs, rows, draws, region_probability)
    hidden = masked_regions & (draws.hide_region < ZERO_SHARE)
    if region_overlap < 1:
        overlapping = pairwise_iou(pairs.places[..., :4].numpy()) > region_overlap  # [B, R, R]
        spread = np.einsum("brq,bq->br", overlapping, masked_regions) > 0
        spread_hidden = np.einsum("brq,bq->br", overlapping, hidden) > 0
        free = ~pairs.region_padding.numpy()
        free[:, 0] = False
        masked_regions, hidden = masked_regions | spread & free, hidden | spread_hidden & free
    return Masking(
        torch.from_numpy(shown),
        torch.from_numpy(masked_tokens),
        torch.from_numpy(masked_regions),
        torch.from_numpy(hidden),
    )


def _mask_tokens(
    pairs: Pairs,
    rows: Bool[np.ndarray, " B"],
    tokenizer: TitleTokenizer,
    draws: Draws,
    probability: float,
) -> tuple[Int[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]:
    tokens = pairs.tokens.numpy()
    words = ~pairs.text_padding.numpy() & (tokens != tokenizer.cls) & (tokens != tokenizer.sep)
    masked = words & (draws.mask_token < probability) & rows[:, None]
    shown = np.where(masked & (draws.fate < MASK_SHARE), tokenizer.mask, tokens)
    replaced = masked & (draws.fate >= MASK_SHARE) & (draws.fate < MASK_SHARE + RANDOM_SHARE)
    return np.where(replaced, draws.random_tokens, shown).astype(np.int64), masked


def _choose_regions(
    pairs: Pairs,
    rows: Bool[np.ndarray, " B"],
    draws: Draws,
    probability: float,
) -> Bool[np.ndarray, "B R"]:
    free = ~pairs.region_padding.numpy() & rows[:, None]
    free[:, 0] = False
    return np.asarray(free & (draws.mask_region < probability))
