"""Which train items show one product alone, and their cut-outs on disk.

Nothing labels single products. A candidate is an item whose title names no set; it becomes a
cut-out if its photo has one dominant foreground blob with a plausible mask.
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
from product1m.data.items import ITEMS, read_photo
from product1m.data.photos import Photo, decode_photo
from product1m.errors import ArtifactError
from product1m.synthesis.grabcut import GrabCutSettings, Mask, MaskQuality, cut_out, foreground
from product1m.synthesis.parallel import Workers
from product1m.telemetry.progress import track

REASONS = ("too_small", "too_large", "cut_off", "fragmented", "faint_edge")
"""Why a mask is not plausible as one product, in the order of the checks."""
_CHUNK = 16
"""Candidates cut in one task; a finished task is not done again after a kill (ours)."""
_COLUMNS = ["id", "caption", "group", "sha256", "shard", "offset", "num_bytes"]


@dataclass(frozen=True)
class Candidate:
    """A train item whose title names no set, and where its photo lies."""

    number: int
    id: str
    caption: str
    group: int
    shard: str
    offset: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Verdict:
    """What became of a candidate."""

    candidate: Candidate
    reason: str
    """One of `REASONS`, or empty: its cut-out is at `path`."""
    path: Path


@dataclass(frozen=True)
class _CutTask:
    candidates: Sequence[Candidate]
    shards: Sequence[Shard]
    folder: Path
    config: BackgroundSynthesisConfig


def draw_candidates(
    products: Artifact, config: BackgroundSynthesisConfig
) -> tuple[list[Candidate], dict[str, float]]:
    """At most `max_cutouts` candidates in the order of their photos, and counts.

    The draw is by a hash of seed and photo, so one of several items with the same photo stands for
    all, and memory holds no more than is drawn.
    """
    heap: list[tuple[int, str]] = []
    drawn: dict[int, Candidate] = {}
    num_items = num_sets = 0
    with pq.ParquetFile(products.file(ITEMS)) as table:
        for batch in table.iter_batches(columns=_COLUMNS):
            for row in batch.to_pylist():
                num_items += 1
                if names_set(row["caption"], config.set_words):
                    num_sets += 1
                    continue
                key = _priority(row["sha256"], config.seed)
                if key in drawn or (len(heap) == config.max_cutouts and key >= -heap[0][0]):
                    continue
                if len(heap) == config.max_cutouts:
                    del drawn[-heapq.heappop(heap)[0]]
                heapq.heappush(heap, (-key, row["id"]))
                drawn[key] = Candidate(number=0, **row)
    ordered = sorted(drawn.values(), key=lambda candidate: (candidate.shard, candidate.offset))
    candidates = [replace(candidate, number=k) for k, candidate in enumerate(ordered)]
    return candidates, {"items": float(num_items), "items/of_sets": float(num_sets)}


def names_set(caption: str, set_words: Sequence[str]) -> bool:
    """Whether a title says that it sells several products, by any of the words in any case."""
    folded = caption.casefold()
    return any(word.casefold() in folded for word in set_words)


def cut_candidates(
    products: Artifact,
    candidates: Sequence[Candidate],
    folder: Path,
    config: BackgroundSynthesisConfig,
    workers: Workers,
) -> list[Verdict]:
    """Cut every candidate into `folder`, or take what an earlier attempt left there.

    Raises ArtifactError for a photo that cannot be decoded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tasks = _tasks(products, candidates, folder, config)
    verdicts = chain.from_iterable(workers.map(_cut_chunk, tasks))
    return list(track(verdicts, "cutting out photos", len(candidates)))


def read_candidate(candidate: Candidate, shard: Shard) -> Photo:
    """The candidate's photo, decoded."""
    encoded = read_photo(shard, candidate.offset, candidate.num_bytes, candidate.sha256)
    return decode_photo(encoded, f"{shard.address}: {candidate.id}")


def cut(photo: Photo, config: BackgroundSynthesisConfig) -> tuple[Mask, str]:
    """A photo's foreground at the resolution of GrabCut and why it is implausible, or nothing."""
    mask, quality = foreground(photo, GrabCutSettings.from_config(config))
    return mask, reject(quality, config)


def reject(quality: MaskQuality, config: BackgroundSynthesisConfig) -> str:
    """The first of `REASONS` that applies; empty for a plausible mask."""
    failed = (
        quality.area < config.min_mask_area or quality.area == 0,
        quality.area > config.max_mask_area,
        quality.border_contact > config.max_border_contact,
        quality.dominant_share < config.min_dominant_share,
        quality.faint_edge > config.max_faint_edge,
    )
    return next((reason for reason, fails in zip(REASONS, failed, strict=True) if fails), "")


def read_cutout(path: Path) -> UInt8[np.ndarray, "h w 4"]:
    """A cut-out as RGBA; ArtifactError if its file is gone or damaged."""
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ArtifactError(f"{path}: not a cut-out; delete {path.parent} and run the step again")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA))


def _priority(sha256: str, seed: int) -> int:
    digest = hashlib.blake2b(f"{seed} {sha256}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _tasks(
    products: Artifact,
    candidates: Sequence[Candidate],
    folder: Path,
    config: BackgroundSynthesisConfig,
) -> Iterator[_CutTask]:
    for start in range(0, len(candidates), _CHUNK):
        chunk = candidates[start : start + _CHUNK]
        # Verified here, once, and not again in every process.
        shards = [products.shard(candidate.shard) for candidate in chunk]
        yield _CutTask(chunk, shards, folder, config)


def _cut_chunk(task: _CutTask) -> list[Verdict]:
    done = task.folder / f"{task.candidates[0].number:08d}.json"
    paths = [task.folder / f"{candidate.number:08d}.png" for candidate in task.candidates]
    if done.is_file():
        reasons = json.loads(done.read_text("utf-8"))
    else:
        reasons = [
            _cut_one(read_candidate(candidate, shard), path, task.config)
            for candidate, shard, path in zip(task.candidates, task.shards, paths, strict=True)
        ]
        # Written last: a chunk that has this file has all its cut-outs.
        write_text(done, json.dumps(reasons))
    return [
        Verdict(candidate, reason, path)
        for candidate, reason, path in zip(task.candidates, reasons, paths, strict=True)
    ]


def _cut_one(photo: Photo, path: Path, config: BackgroundSynthesisConfig) -> str:
    mask, reason = cut(photo, config)
    if not reason:
        side_px = config.max_scale * min(config.scene_width_px, config.scene_height_px)
        cutout = cut_out(photo, mask, round(side_px))
        if not cv2.imwrite(str(path), cv2.cvtColor(cutout, cv2.COLOR_RGBA2BGRA)):
            raise OSError(f"{path}: the cut-out cannot be written; is the disk full?")
    return reason
