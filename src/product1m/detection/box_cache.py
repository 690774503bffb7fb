"""A cache of what was computed for boxes of photos, in a folder or below `s3://`.

A second run, or a catalogue with new photos, computes only what is not in the cache.
"""

import threading
from collections.abc import Callable, Sized
from hashlib import sha256
from typing import Generic, TypeVar

import numpy as np

from product1m.data.geometry import Boxes
from product1m.errors import NotStoredError
from product1m.storage.base import Store
from product1m.storage.opening import open_store

_Value = TypeVar("_Value", bound=Sized)


class BoxCache(Generic[_Value]):
    """Values by photo and boxes; counts cached and new photos for metrics."""

    def __init__(
        self,
        address: str,
        prefix: str,
        suffix: str,
        encoded: Callable[[_Value], bytes],
        decoded: Callable[[bytes, Boxes], _Value | None],
    ) -> None:
        """Open the cache.

        Args:
            address: of a folder or prefix; if it is empty, everything is computed.
            prefix: of the names of entries; it identifies what computes them.
            suffix: of these names.
            encoded: the content of an entry.
            decoded: the value of a content for some boxes; None if it cannot be read.
        """
        self.num_new = 0
        self.num_cached = 0
        self.num_parts = 0
        self._prefix, self._suffix = prefix, suffix
        self._encoded, self._decoded = encoded, decoded
        self._store: Store | None = open_store(address) if address else None
        self._counting = threading.Lock()

    def get(self, digest: str, boxes_xyxy: Boxes, compute: Callable[[], _Value]) -> _Value:
        """The value for boxes of a photo; `digest` is the SHA-256 of the stored photo."""
        name = self._name(digest, boxes_xyxy)
        value = self._find(name, boxes_xyxy)
        is_new = value is None
        if value is None:
            value = compute()
            if self._store is not None:
                self._store.publish(name, self._encoded(value))
        with self._counting:
            self.num_new += is_new
            self.num_cached += not is_new
            self.num_parts += len(value)
        return value

    def metrics(self, computed: str, parts: str) -> dict[str, float]:
        """Number of photos computed now, of photos from the cache, and of parts per photo."""
        num_photos = self.num_new + self.num_cached
        return {
            f"photos_{computed}": float(self.num_new),
            f"photos_{computed}_before": float(self.num_cached),
            f"{parts}_per_item": self.num_parts / max(num_photos, 1),
        }

    def _name(self, digest: str, boxes_xyxy: Boxes) -> str:
        boxes = sha256(np.ascontiguousarray(boxes_xyxy, "<f4").tobytes()).hexdigest()[:16]
        return f"{self._prefix}/{digest[:2]}/{digest}-{boxes}{self._suffix}"

    def _find(self, name: str, boxes_xyxy: Boxes) -> _Value | None:
        """The value of an entry; None if there is none, or one that cannot be read."""
        if self._store is None:
            return None
        try:
            content = self._store.read(name)
        except NotStoredError:
            return None
        return self._decoded(content, boxes_xyxy)
