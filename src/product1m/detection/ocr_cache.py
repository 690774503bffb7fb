"""A cache of printed lines, by photo, boxes and reader, in a folder or below `s3://`.

A second run, or a catalogue with new photos, reads only photos that are not in the cache.
"""

import json
import threading
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import numpy as np

from product1m.artifacts.folder import Artifact
from product1m.config import FeatureExtractionConfig
from product1m.data.geometry import Boxes
from product1m.data.photos import Photo
from product1m.data.printed_lines import PrintedLines
from product1m.data.regions import Regions
from product1m.detection.ocr import OcrSettings, PackReader, boxes_to_read
from product1m.errors import NotStoredError
from product1m.storage.base import Store
from product1m.storage.opening import open_store
from product1m.telemetry.cpus import available_cpus

READ_PARTS = ("gallery", "queries")


def open_reader(config: FeatureExtractionConfig, part: str, rpn: Artifact) -> "CachedReader | None":
    """The reader that a configuration section asks for; None if this part is not read.

    Only the gallery and queries are read; training does not use printed text.
    """
    if config.ocr == "off" or part not in READ_PARTS:
        return None
    workers = config.ocr_num_workers or available_cpus()
    reader = PackReader(OcrSettings.from_config(config, part, rpn))
    return CachedReader(reader, config.ocr_cache, workers)


class CachedReader:
    """A reader that looks into its cache first, and counts cached and new photos for metrics."""

    def __init__(self, reader: PackReader, cache: str = "", num_workers: int = 1) -> None:
        """`cache` is the address of a folder or prefix; if it is empty, every photo is read."""
        self.reader = reader
        self.num_workers = num_workers
        self.num_read = 0
        self.num_cached = 0
        self.num_lines = 0
        self._store: Store | None = open_store(cache) if cache else None
        self._counting = threading.Lock()

    def read(self, digest: str, photo: Callable[[], Photo], regions: Regions) -> PrintedLines:
        """The lines of a photo.

        Args:
            digest: SHA-256 of the stored photo.
            photo: decodes the photo; called only if the photo must be read.
            regions: the photo's regions.
        """
        boxes_xyxy = boxes_to_read(regions, self.reader.settings)
        name = self._name(digest, boxes_xyxy)
        lines = self._find(name)
        is_new = lines is None
        if lines is None:
            lines = self.reader.read(photo(), boxes_xyxy)
            if self._store is not None:
                self._store.publish(name, _encoded(lines))
        with self._counting:
            self.num_read += is_new
            self.num_cached += not is_new
            self.num_lines += len(lines)
        return lines

    def metrics(self) -> dict[str, float]:
        """Number of photos read now, of photos from the cache, and of lines per photo."""
        num_photos = self.num_read + self.num_cached
        return {
            "photos_read": float(self.num_read),
            "photos_read_before": float(self.num_cached),
            "lines_per_item": self.num_lines / max(num_photos, 1),
        }

    def _name(self, digest: str, boxes_xyxy: Boxes) -> str:
        boxes = sha256(np.ascontiguousarray(boxes_xyxy, "<f4").tobytes()).hexdigest()[:16]
        return f"lines/{self.reader.settings.key}/{digest[:2]}/{digest}-{boxes}.json"

    def _find(self, name: str) -> PrintedLines | None:
        """The lines of an entry; None if there is none, or one that cannot be read."""
        if self._store is None:
            return None
        try:
            return _decoded(json.loads(self._store.read(name)))
        except (NotStoredError, ValueError, LookupError, TypeError):
            return None


def _encoded(lines: PrintedLines) -> bytes:
    row = {
        "quads": lines.quads_xy.reshape(-1, 8).tolist(),
        "texts": list(lines.texts),
        "scores": lines.scores.tolist(),
    }
    return json.dumps(row, ensure_ascii=False).encode()


def _decoded(row: dict[str, Any]) -> PrintedLines:
    quads = np.array(row["quads"], np.float32).reshape(-1, 4, 2)
    texts, scores = tuple(map(str, row["texts"])), np.array(row["scores"], np.float32)
    if not len(quads) == len(texts) == len(scores):
        raise ValueError("lines, texts and scores differ in number")
    return PrintedLines(quads, texts, scores)
