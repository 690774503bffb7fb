"""Titles with the regions of their photos, as padded batches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int32
from torch import Tensor

from product1m.data.regions import Regions

Tokens = Int32[np.ndarray, " T"]


class OnDevice:
    """A dataclass of tensors that moves to a device as a whole."""

    def to(self, device: torch.device) -> Self:
        """The same values on a device; from pinned memory the copy to a GPU is asynchronous."""
        ahead = device.type == "cuda"
        return self._changed(lambda tensor: tensor.to(device, non_blocking=ahead))

    def pin_memory(self) -> Self:
        """The same values in pinned memory."""
        return self._changed(lambda tensor: tensor.pin_memory())

    def part(self, rows: slice) -> Self:
        """Some of the rows of every tensor."""
        return self._changed(lambda tensor: tensor[rows])

    def _changed(self, change: Callable[[Tensor], Tensor]) -> Self:
        def changed(value: Any) -> Any:
            if isinstance(value, OnDevice):
                return value._changed(change)
            return change(value) if isinstance(value, Tensor) else value

        names = [field.name for field in fields(self)]  # type: ignore[arg-type]  # dataclasses
        return type(self)(**{name: changed(getattr(self, name)) for name in names})


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


def collate(titles: Sequence[Tokens], photos: Sequence[Regions], max_regions: int) -> Pairs:
    """Pad to the longest; a photo keeps its first region and at most `max_regions` more."""
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
