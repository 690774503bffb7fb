"""Tensors of a safetensors shard that is read part by part."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from product1m.artifacts.shards import Shard
from product1m.errors import ArtifactError
from product1m.storage.base import agreed

_DTYPES: dict[str, type[np.generic]] = {"F16": np.float16, "F32": np.float32}
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 1 << 20
"""Largest plausible header; a few tensors need hundreds of bytes (ours)."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor whose rows are fetched on access."""

    shard: Shard
    start: int
    """Offset of row 0 in bytes."""
    dtype: type[np.generic]
    shape: tuple[int, ...]

    def __getitem__(self, rows: slice) -> np.ndarray:
        first, last, _ = rows.indices(self.shape[0])
        row_bytes = math.prod(self.shape[1:]) * np.dtype(self.dtype).itemsize
        content = self.shard.read(self.start + first * row_bytes, (last - first) * row_bytes)
        if len(content) != (last - first) * row_bytes:
            raise ArtifactError(
                f"{self.shard.address}: truncated; rows {first} to {last} are missing"
            )
        return np.frombuffer(content, self.dtype).reshape(last - first, *self.shape[1:])


def open_tensors(shard: Shard) -> Mapping[str, StoredTensor]:
    """The tensors in a shard's header; ArtifactError if it has no valid header."""

    def read(start: int, num_bytes: int) -> bytes:  # a header has no checksum
        return agreed(lambda: shard.read(start, num_bytes), bytes)

    num_bytes = int.from_bytes(read(0, _LENGTH_BYTES), "little")
    try:
        if not 0 < num_bytes <= _MAX_HEADER_BYTES:
            raise ValueError(f"a header of {num_bytes} bytes")
        header: dict[str, Any] = json.loads(read(_LENGTH_BYTES, num_bytes))
        header.pop("__metadata__", None)
        first = _LENGTH_BYTES + num_bytes
        return {
            name: StoredTensor(
                shard,
                first + int(facts["data_offsets"][0]),
                _DTYPES[facts["dtype"]],
                tuple(facts["shape"]),
            )
            for name, facts in header.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{shard.address}: not a safetensors shard ({error})") from error
