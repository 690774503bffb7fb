"""Find the train items that show a single product, and cut the products out.

There are no labels for this. A candidate is an item whose title names no set; it becomes a cut-out
if its photo has one dominant foreground part with a plausible mask.
"""

import hashlib
import heapq
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
from jaxtyping import UInt8

from product1m.artifacts.atomic import write_text
from product1m.artifacts.folder import Artifact
from product1m.artifacts.shards import Shard
from product1m.config import BackgroundSynthesisConfig
from product1m.data.class_names import names_set
from product1m.data.items import ITEMS, ROWS_PER_GROUP, read_photo
from product1m.data.photos import Photo, decode_photo
from product1m.errors import ArtifactError
from product1m.storage.base import sha256_of
from product1m.synthesis.grabcut import GrabCutSettings, Mask, MaskQuality, cut_out, foreground
from product1m.synthesis.parallel import WorkerProcesses
from product1m.telemetry.progress import track

REASONS = ("too_small", "too_large", "cut_off", "fragmented", "faint_edge")
"""Reasons why a mask is not plausible as one product, in the order of the checks."""
_CHUNK = 16
"""Number of candidates cut in one task; finished tasks are not repeated after a kill (ours)."""
_COLUMNS = ["id", "caption", "labels", "group", "sha256", "shard", "offset", "num_bytes"]


@dataclass(frozen=True)
class Candidate:
    """A train item whose title names no set, and the place of its photo."""

    number: int
    id: str
    caption: str
    group: int
    shard: str
    offset: int
    num_bytes: int
    sha256: str
    labels: Sequence[str] = ()
    """Empty if the list names none."""


@dataclass(frozen=True)
class CutAttempt:
    """The result of cutting a candidate out of its photo."""

    candidate: Candidate
    reason: str
    """Why it was rejected, one of `REASONS`. Empty if accepted; the cut-out is then at `path`."""
    path: Path


@dataclass(frozen=True)
class CutoutSettings:
    """How candidates are cut out and which masks are plausible.

    The section `background_synthesis` of the configuration explains each value.
    """

    grabcut: GrabCutSettings
    min_mask_area: float
    max_mask_area: float
    max_border_contact: float
    min_dominant_share: float
    max_faint_edge: float
    max_side_px: int
    """Longer side of a cut-out, which is that of the largest product in a scene."""

    @classmethod
    def from_config(cls, config: BackgroundSynthesisConfig) -> "CutoutSettings":
        """The settings in a configuration section."""
        side_px = config.max_scale * min(config.scene_width_px, config.scene_height_px)
        return cls(
            grabcut=GrabCutSettings.from_config(config),
            min_mask_area=config.min_mask_area,
            max_mask_area=config.max_mask_area,
            max_border_contact=config.max_border_contact,
            min_dominant_share=config.min_dominant_share,
            max_faint_edge=config.max_faint_edge,
            max_side_px=round(side_px),
        )


@dataclass(frozen=True)
class _CutTask:
    candidates: Sequence[Candidate]
    shards: Sequence[Shard]
    folder: Path
    settings: CutoutSettings


def draw_candidates(
    products: Artifact, *, max_candidates: int, set_words: Sequence[str], seed: int
) -> tuple[list[Candidate], dict[str, float]]:
    """Draw candidates at random, in the order of their photos in the shards, and count items.

    A hash of seed and photo decides, so items with the same photo count once, and memory only holds
    what is drawn.
    """
    heap: list[tuple[int, str]] = []
    drawn: dict[int, Candidate] = {}
    num_items = num_sets = 0
    with pq.ParquetFile(products.file(ITEMS)) as table:
        for batch in table.iter_batches(ROWS_PER_GROUP, columns=_COLUMNS):
            for row in batch.to_pylist():
                num_items += 1
                if names_set(row["caption"], set_words):
                    num_sets += 1
                    continue
                key = _priority(row["sha256"], seed)
                if key in drawn or (len(heap) == max_candidates and key >= -heap[0][0]):
                    continue
                if len(heap) == max_candidates:
                    del drawn[-heapq.heappop(heap)[0]]
                heapq.heappush(heap, (-key, row["id"]))
                drawn[key] = Candidate(number=0, **row)
    ordered = sorted(drawn.values(), key=lambda candidate: (candidate.shard, candidate.offset))
    candidates = [replace(candidate, number=k) for k, candidate in enumerate(ordered)]
    return candidates, {"items": float(num_items), "items/of_sets": float(num_sets)}


def cut_candidates(
    products: Artifact,
    candidates: Sequence[Candidate],
    folder: Path,
    settings: CutoutSettings,
    workers: WorkerProcesses,
) -> list[CutAttempt]:
    """Cut every candidate out into `folder`, and use what an interrupted run left there.

    Raises ArtifactError for a photo that cannot be decoded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tasks = _tasks(products, candidates, folder, settings)
    attempts = chain.from_iterable(workers.map(_cut_chunk, tasks))
    return list(track(attempts, "cutting out photos", len(candidates)))


def read_candidate(candidate: Candidate, shard: Shard) -> Photo:
    """The candidate's photo, decoded."""
    return decode_photo(read_encoded(candidate, shard), f"{shard.address}: {candidate.id}")


def read_encoded(candidate: Candidate, shard: Shard) -> bytes:
    """The candidate's photo as it is stored."""
    return read_photo(shard, candidate.offset, candidate.num_bytes, candidate.sha256)


def cut(photo: Photo, settings: CutoutSettings) -> tuple[Mask, str]:
    """A photo's foreground at GrabCut's resolution, and why it is not plausible, if it is not."""
    mask, quality = foreground(photo, settings.grabcut)
    return mask, reject(quality, settings)


def reject(quality: MaskQuality, settings: CutoutSettings) -> str:
    """The first of `REASONS` that applies; empty for a plausible mask."""
    failed = (
        quality.area < settings.min_mask_area or quality.area == 0,
        quality.area > settings.max_mask_area,
        quality.border_contact > settings.max_border_contact,
        quality.dominant_share < settings.min_dominant_share,
        quality.faint_edge > settings.max_faint_edge,
    )
    return next((reason for reason, fails in zip(REASONS, failed, strict=True) if fails), "")


def read_cutout(path: Path) -> UInt8[np.ndarray, "h w 4"]:
    """A cut-out as RGBA; ArtifactError if its file is missing or damaged."""
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ArtifactError(
            f"{path}: cut-out missing or damaged; delete {path.parent} and run the step again"
        )
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA))


def _priority(sha256: str, seed: int) -> int:
    digest = hashlib.blake2b(f"{seed} {sha256}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _tasks(
    products: Artifact,
    candidates: Sequence[Candidate],
    folder: Path,
    settings: CutoutSettings,
) -> Iterator[_CutTask]:
    for start in range(0, len(candidates), _CHUNK):
        chunk = candidates[start : start + _CHUNK]
        # Shards are verified here once, not again in every process.
        shards = [products.shard(candidate.shard) for candidate in chunk]
        yield _CutTask(chunk, shards, folder, settings)


def _cut_chunk(task: _CutTask) -> list[CutAttempt]:
    done = task.folder / f"{task.candidates[0].number:08d}.json"
    paths = [task.folder / f"{candidate.number:08d}.png" for candidate in task.candidates]
    reasons = _reasons_of(done, paths)
    if reasons is None:
        reasons = [
            _cut_into(path, read_candidate(candidate, shard), task.settings)
            for candidate, shard, path in zip(task.candidates, task.shards, paths, strict=True)
        ]
        # This file is written last: if it exists, so do all cut-outs of its chunk.
        write_text(done, json.dumps([reasons, _digests(paths)]))
    return [
        CutAttempt(candidate, reason, path)
        for candidate, reason, path in zip(task.candidates, reasons, paths, strict=True)
    ]


def _reasons_of(done: Path, paths: Sequence[Path]) -> list[str] | None:
    """Why a chunk's candidates were rejected; None if it must be cut, because a file is damaged."""
    try:
        reasons, digests = json.loads(done.read_text("utf-8"))
    except (OSError, ValueError, TypeError):
        return None
    return reasons if digests == _digests(paths) else None


def _digests(paths: Sequence[Path]) -> list[str]:
    return [sha256_of(path) if path.is_file() else "" for path in paths]


def _cut_into(path: Path, photo: Photo, settings: CutoutSettings) -> str:
    mask, reason = cut(photo, settings)
    if not reason:
        cutout = cut_out(photo, mask, settings.max_side_px)
        _, encoded = cv2.imencode(path.suffix, cv2.cvtColor(cutout, cv2.COLOR_RGBA2BGRA))
        path.write_bytes(encoded.tobytes())  # unlike imwrite, it raises an error with the reason
    return reason
