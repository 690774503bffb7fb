"""Read the text printed on packs with RapidOCR, whose wheel contains its weights.

Nothing is downloaded. A photo's lines do not depend on the number of threads and processes, so they
can be cached by the photo's digest (`ocr_cache`).
"""

import json
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from hashlib import sha256
from importlib import metadata
from typing import Any, Literal

import cv2
import numpy as np
from jaxtyping import Float

from product1m.artifacts.folder import Artifact
from product1m.config import FeatureExtractionConfig
from product1m.data.geometry import (
    Boxes,
    BoxSelection,
    chosen_boxes,
)
from product1m.data.photos import Photo
from product1m.data.printed_lines import (
    NO_LINES,
    PrintedLines,
    joined,
    shares_inside,
    without_repeats,
)
from product1m.data.regions import Regions
from product1m.errors import Product1MError

CUDA = "CUDAExecutionProvider"
PACKAGES = ("rapidocr", "onnxruntime")
LICENSE = "Apache-2.0"
"""License of RapidOCR and of the PP-OCR weights in its wheel."""
CROP_MARGIN = 0.05
"""A box is cut out with a margin of this share of its sides (ours)."""


class OcrError(Product1MError):
    """The text reader cannot run with this configuration."""


@dataclass(frozen=True)
class OcrSettings:
    """How photos are read.

    The section `feature_extraction` of the configuration explains each value.
    """

    read: Literal["photo", "boxes"]
    photo_side_px: int
    box_side_px: int
    min_score: float
    provider: Literal["cpu", "cuda"]
    boxes: BoxSelection
    """Which regions of a query are read."""

    @classmethod
    def from_config(
        cls, config: FeatureExtractionConfig, part: str = "queries", rpn: Artifact | None = None
    ) -> "OcrSettings":
        """The settings in a configuration section for a part of the data.

        A gallery photo shows one product, so it is read as a whole. The thresholds for a query's
        boxes come with the RPN.
        """
        return cls(
            "boxes" if config.ocr == "boxes" and part != "gallery" else "photo",
            config.ocr_photo_side_px,
            config.ocr_box_side_px,
            config.ocr_min_score,
            config.ocr_provider,
            chosen_boxes(rpn.manifest.details if rpn else {}, config.ocr_max_boxes),
        )

    def on_this_machine(self) -> "OcrSettings":
        """These settings, but on the CPU if onnxruntime has no GPU here."""
        return self if CUDA in _providers() else replace(self, provider="cpu")

    @property
    def key(self) -> str:
        """Identifies reader and settings: if it is equal, a box of a photo gives equal lines."""
        values = (
            asdict(replace(self, read="photo", boxes=BoxSelection(0, 0, 0))) | reader_versions()
        )
        return sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def boxes_to_read(regions: Regions, settings: OcrSettings) -> Boxes:
    """The regions that are likely products, best first; none if whole photos are read."""
    if settings.read != "boxes":
        return regions.boxes_xyxy[:0]
    return np.asarray(regions.boxes_xyxy[regions.products(settings.boxes)], np.float32)


def reader_versions() -> dict[str, str]:
    """Versions of the reader's packages, for manifests."""
    return {name: metadata.version(name) for name in PACKAGES}


def reader_details(settings: OcrSettings) -> dict[str, Any]:
    """Facts about the reader for the manifest of an artifact with its lines."""
    versions = reader_versions()
    source = f"rapidocr {versions['rapidocr']}"
    return {**versions, "source": source, "license": LICENSE, "key": settings.key}


class PackReader:
    """Reads photos; many threads may share a reader, and each gets its own sessions.

    A session of onnxruntime runs on one thread, because several photos at once use the CPUs better
    than several threads on one photo.
    """

    def __init__(self, settings: OcrSettings) -> None:
        self.settings = settings
        self._own = threading.local()

    def read(self, photo: Photo, boxes_xyxy: Boxes) -> PrintedLines:
        """The printed lines in the boxes of a photo, or in all of it if there are no boxes.

        Args:
            photo: RGB, upright.
            boxes_xyxy: boxes from `boxes_to_read`, in the photo's pixels.
        """
        if not len(boxes_xyxy):
            return self._read_at(photo, self.settings.photo_side_px)
        return without_repeats(joined([self._read_box(photo, box) for box in boxes_xyxy]))

    def with_lines(self, photo: Photo, regions: Regions) -> Regions:
        """The regions of a photo with its printed lines."""
        return replace(regions, lines=self.read(photo, boxes_to_read(regions, self.settings)))

    def _read_box(self, photo: Photo, box_xyxy: Float[np.ndarray, "4"]) -> PrintedLines:
        left, top, right, bottom = _with_margin(box_xyxy, photo)
        crop = np.ascontiguousarray(photo[top:bottom, left:right])
        lines = self._read_at(crop, self.settings.box_side_px)
        whole = lines.quads_xy + np.array([left, top], np.float32)
        # A line outside the box belongs to another crop, or is cut by the edge of this one.
        own = shares_inside(whole, np.asarray(box_xyxy, np.float32)) > 0
        return PrintedLines(whole, lines.texts, lines.scores).select(np.flatnonzero(own))

    def _read_at(self, photo: Photo, side_px: int) -> PrintedLines:
        """Read a photo resized to this length of its longer side."""
        scale = side_px / max(photo.shape[:2])
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        size = [max(round(side * scale), 1) for side in photo.shape[1::-1]]
        sized = cv2.resize(photo, size, interpolation=method)
        lines = self._lines(cv2.cvtColor(sized, cv2.COLOR_RGB2BGR))
        factor = np.array(photo.shape[1::-1], np.float32) / np.array(size, np.float32)
        return PrintedLines(lines.quads_xy * factor, lines.texts, lines.scores)

    def _lines(self, bgr: Photo) -> PrintedLines:
        """Find lines and read each one upright and turned by 180°, as packs may be upside down.

        Upside-down text is read as other letters, with a lower score.
        """
        engine = self._engine
        quads = engine(bgr, use_det=True, use_cls=False, use_rec=False).boxes
        if quads is None or not len(quads):
            return NO_LINES
        quads = np.asarray(quads, np.float32)
        strips = engine.crop_text_regions(bgr, quads)
        turned = [cv2.rotate(strip, cv2.ROTATE_180) for strip in strips]
        answers = engine.recognize_txt([*strips, *turned])
        return _better_direction(quads, answers.txts, answers.scores, self.settings.min_score)

    @cached_property
    def _params(self) -> dict[str, Any]:
        runtime = "EngineConfig.onnxruntime"
        return {
            "Global.log_level": "critical",
            "Det.limit_type": "min",
            "Det.limit_side_len": 32,  # `_read_at` decides the size
            "Global.max_side_len": 100_000,
            f"{runtime}.intra_op_num_threads": 1,
            f"{runtime}.inter_op_num_threads": 1,
            f"{runtime}.use_cuda": self.settings.provider == "cuda",
        }

    @property
    def _engine(self) -> Any:
        """This thread's RapidOCR."""
        if not hasattr(self._own, "engine"):
            require_provider(self.settings.provider)
            from rapidocr import RapidOCR

            self._own.engine = RapidOCR(params=self._params)
        return self._own.engine


def require_provider(provider: str) -> None:
    """OcrError if onnxruntime cannot use the device; it would silently use the CPU instead."""
    known = _providers()
    if provider == "cuda" and CUDA not in known:
        raise OcrError(
            f"feature_extraction.ocr_provider=cuda: expected {CUDA}, but onnxruntime "
            f"has {', '.join(known)}; install onnxruntime-gpu in place of onnxruntime, or set "
            "ocr_provider=cpu"
        )


def _providers() -> list[str]:
    import onnxruntime

    return list(onnxruntime.get_available_providers())


def _better_direction(
    quads: np.ndarray, texts: Sequence[str], scores: Sequence[float], min_score: float
) -> PrintedLines:
    """For every line, read upright and turned by 180°, the reading with the higher score."""
    num = len(quads)
    kept: list[tuple[int, str, float]] = []
    for row in range(num):
        best = row if scores[row] >= scores[row + num] else row + num
        if scores[best] >= min_score and texts[best].strip():
            kept.append((best, texts[best].strip(), float(scores[best])))
    if not kept:
        return NO_LINES
    # The first corner is where the text begins.
    corners = [np.roll(quads[best % num], 2 * (best >= num), axis=0) for best, _, _ in kept]
    return PrintedLines(
        np.stack(corners).astype(np.float32),
        tuple(text for _, text, _ in kept),
        np.array([score for _, _, score in kept], np.float32),
    )


def _with_margin(box_xyxy: Float[np.ndarray, "4"], photo: Photo) -> tuple[int, int, int, int]:
    """A box with a margin, in whole pixels inside the photo."""
    height, width = photo.shape[:2]
    left, top, right, bottom = np.asarray(box_xyxy, float).tolist()
    across, down = CROP_MARGIN * (right - left), CROP_MARGIN * (bottom - top)
    x1, y1 = max(0, int(left - across)), max(0, int(top - down))
    x2, y2 = min(width, int(right + across) + 1), min(height, int(bottom + down) + 1)
    x1, y1 = min(x1, width - 1), min(y1, height - 1)
    return x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)
