"""A cache of printed lines, by photo, boxes and reader, in a folder or below `s3://`.

A second run, or a catalogue with new photos, reads only photos that are not in the cache.
"""

import json
from collections.abc import Callable

import numpy as np

from product1m.artifacts.folder import Artifact
from product1m.config import FeatureExtractionConfig
from product1m.data.geometry import Boxes
from product1m.data.photos import Photo
from product1m.data.printed_lines import PrintedLines
from product1m.data.regions import Regions
from product1m.detection.box_cache import BoxCache
from product1m.detection.ocr import OcrSettings, PackReader, boxes_to_read
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
        prefix = f"lines/{reader.settings.key}"
        self._cache = BoxCache(cache, prefix, ".json", _encoded, _decoded)

    def read(self, digest: str, photo: Callable[[], Photo], regions: Regions) -> PrintedLines:
        """The lines of a photo.

        Args:
            digest: SHA-256 of the stored photo.
            photo: decodes the photo; called only if the photo must be read.
            regions: the photo's regions.
        """
        boxes_xyxy = boxes_to_read(regions, self.reader.settings)
        return self._cache.get(digest, boxes_xyxy, lambda: self.reader.read(photo(), boxes_xyxy))

    def metrics(self) -> dict[str, float]:
        """Number of photos read now, of photos from the cache, and of lines per photo."""
        return self._cache.metrics("read", "lines")


def _encoded(lines: PrintedLines) -> bytes:
    row = {
        "quads": lines.quads_xy.reshape(-1, 8).tolist(),
        "texts": list(lines.texts),
        "scores": lines.scores.tolist(),
    }
    return json.dumps(row, ensure_ascii=False).encode()


def _decoded(content: bytes, _: Boxes) -> PrintedLines | None:
    try:
        row = json.loads(content)
        quads = np.array(row["quads"], np.float32).reshape(-1, 4, 2)
        texts, scores = tuple(map(str, row["texts"])), np.array(row["scores"], np.float32)
    except (ValueError, LookupError, TypeError):
        return None
    is_whole = len(quads) == len(texts) == len(scores)
    return PrintedLines(quads, texts, scores) if is_whole else None
