"""The regions of all photos of an artifact, written as a feature set."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from jaxtyping import Float16, Int

from product1m.artifacts.folder import Artifact, ArtifactWriter
from product1m.data.boxes import BOXES
from product1m.data.crop_vectors import CROPS, DETAILS, CropVectors, CropWriter
from product1m.data.geometry import CHOSEN_BOXES, Boxes
from product1m.data.in_order import in_order
from product1m.data.items import ITEMS, ItemTable
from product1m.data.photos import decode_photo
from product1m.data.points import POINTS, Points, PointWriter
from product1m.data.printed_lines import LineWriter, PrintedLines
from product1m.data.regions import (
    INSTANCE_FEATURES,
    INSTANCES,
    Regions,
    RegionWriter,
    write_instances,
)
from product1m.detection.crop_cache import Cropper
from product1m.detection.extraction import (
    PhotoRegions,
    RegionSettings,
    SizedPhoto,
    extract_sized,
    sized_photo,
)
from product1m.detection.ocr import reader_details
from product1m.detection.ocr_cache import CachedReader
from product1m.detection.points import PointFinder
from product1m.detection.proposals import ProposalNetwork, load_rpn, network_settings
from product1m.detection.scene_batches import boxes_by_scene
from product1m.detection.spread import spread
from product1m.errors import DatasetError
from product1m.telemetry.progress import track

_Value = TypeVar("_Value")
CROPS_WINDOW = 64
"""Photos whose products are encoded at the same time (ours)."""
BATCHES_PER_WINDOW = 8
"""Photos are sorted by size within this many batches; memory holds two such windows (ours)."""


def write_features(
    images: Artifact,
    rpn: Artifact,
    writer: ArtifactWriter,
    settings: RegionSettings,
    *,
    num_workers: int,
    shard_mib: int,
    reader: CachedReader | None = None,
    finder: PointFinder | None = None,
    cropper: Cropper | None = None,
) -> None:
    """Extract the regions of all photos of `images` into an artifact.

    Args:
        images, rpn: artifacts of ingestion or background synthesis, and of RPN training.
        writer: writes an artifact of the step `feature_extraction`.
        settings: which regions, and how they are pooled.
        num_workers: threads that decode photos; the result does not depend on it.
        shard_mib: largest size of a shard.
        reader, finder, cropper: read text, find points, encode cut-outs; each if given.

    Raises DatasetError if there are no photos, or with the item's id if one is damaged.
    """
    items, network, instances = _copy_items(images, writer), load_rpn(rpn), _read_instances(images)
    boxes = None if instances is None else boxes_by_scene(instances, len(items))
    extracted: Iterable[PhotoRegions] = _extract(network, items, settings, boxes, num_workers)
    if reader is not None:
        extracted = _with_lines(extracted, items, reader, writer)
    if finder is not None:
        extracted = _with_points(extracted, items, finder, writer, num_workers)
    if cropper is not None:
        extracted = _with_crops(extracted, items, cropper, writer, boxes)
    extracted = track(extracted, f"regions of {images.manifest.part}", len(items))
    counts, instance_features = _write_regions(extracted, writer, shard_mib)
    if instances is not None:
        write_instances(writer.folder, instances, instance_features)
        writer.store(writer.folder / INSTANCE_FEATURES)
    writer.details.update(_details(network, rpn))
    writer.metrics.update(_metrics(counts))


def _copy_items(images: Artifact, writer: ArtifactWriter) -> ItemTable:
    items = ItemTable(images)
    if not len(items):
        raise DatasetError(f"{images.folder}: there are no items to extract features from")
    shutil.copyfile(images.file(ITEMS), writer.folder / ITEMS)
    return items


def _with_lines(
    extracted: Iterable[PhotoRegions],
    items: ItemTable,
    reader: CachedReader,
    writer: ArtifactWriter,
) -> Iterator[PhotoRegions]:
    """Also write the printed lines of every photo; several photos are read at once."""
    digests = items.rows["sha256"]

    def read(position: int, regions: Regions) -> PrintedLines:
        return reader.read(str(digests.iloc[position]), lambda: items.photo(position), regions)

    with LineWriter(writer.folder) as written:
        for photo, lines in _alongside(extracted, read, reader.num_workers, "ocr"):
            written.add(lines)
            yield photo
    writer.details["ocr"] = reader_details(reader.reader.settings)
    writer.metrics.update(reader.metrics())


def _with_points(
    extracted: Iterable[PhotoRegions],
    items: ItemTable,
    finder: PointFinder,
    writer: ArtifactWriter,
    num_workers: int,
) -> Iterator[PhotoRegions]:
    """Also write the points of every photo, several photos at a time."""

    def find(position: int, _: Regions) -> Points:
        return finder.find(items.photo(position))

    num_points = 0
    with PointWriter(writer.folder) as written:
        for photo, points in _alongside(extracted, find, num_workers, "points"):
            written.add(points)
            num_points += len(points)
            yield photo
    writer.store(writer.folder / POINTS)
    writer.metrics["points_per_item"] = num_points / len(items)


def _with_crops(
    extracted: Iterable[PhotoRegions],
    items: ItemTable,
    cropper: Cropper,
    writer: ArtifactWriter,
    known: Sequence[Boxes] | None,
) -> Iterator[PhotoRegions]:
    """Also write the vectors of what is cut out of every photo.

    One window is encoded at a time, while no other network runs, so that the number of threads is
    that of `spread`.
    """
    digests = items.rows["sha256"]

    def encode(numbered: tuple[int, PhotoRegions]) -> CropVectors:
        position, (regions, _) = numbered
        boxes_xyxy = known[position] if known is not None else None
        digest = str(digests.iloc[position])
        return cropper.crops(digest, lambda: items.photo(position), regions, boxes_xyxy)

    with CropWriter(writer.folder) as written:
        numbered = enumerate(extracted)
        while window := list(islice(numbered, CROPS_WINDOW)):
            encoded = spread(encode, window, cropper.encoder.device)
            for (_, photo), crops in zip(window, encoded, strict=True):
                written.add(crops)
                yield photo
    writer.store(writer.folder / CROPS)
    writer.details[DETAILS] = cropper.encoder.details
    writer.metrics.update(cropper.metrics())


def _alongside(
    extracted: Iterable[PhotoRegions],
    compute: Callable[[int, Regions], _Value],
    num_workers: int,
    name: str,
) -> Iterator[tuple[PhotoRegions, _Value]]:
    """Compute a value for every photo, by its position, in threads; in the photos' order."""

    def work(numbered: tuple[int, PhotoRegions]) -> tuple[PhotoRegions, _Value]:
        position, photo = numbered
        return photo, compute(position, photo[0])

    num_workers = max(1, num_workers)
    with ThreadPoolExecutor(num_workers, name) as pool:
        yield from in_order(pool, work, enumerate(extracted), num_workers)


def _write_regions(
    extracted: Iterable[PhotoRegions], writer: ArtifactWriter, shard_mib: int
) -> tuple[Int[np.ndarray, " N"], Float16[np.ndarray, "I F"]]:
    """Write the regions; returns how many each photo has besides itself, and the extra vectors."""
    counts, extra_features = [], []
    with RegionWriter(writer.folder, shard_mib, writer.store) as regions_writer:
        for regions, extra in extracted:
            regions_writer.add(regions)
            counts.append(len(regions) - 1)
            extra_features.append(extra.astype(np.float16))
    return np.array(counts), np.concatenate(extra_features)


def _read_instances(images: Artifact) -> pd.DataFrame | None:
    """The pasted products of scenes, or the known boxes of queries, by photo; None without any."""
    if INSTANCES in images.manifest.files:
        frame: pd.DataFrame = pq.read_table(images.file(INSTANCES)).to_pandas()
    elif BOXES in images.manifest.files:
        frame = pq.read_table(images.file(BOXES)).to_pandas().rename(columns={"item": "scene"})
    else:
        return None
    return frame.sort_values("scene", kind="stable", ignore_index=True)


def _extract(
    network: ProposalNetwork,
    items: ItemTable,
    settings: RegionSettings,
    boxes: Sequence[Boxes] | None,
    num_workers: int,
) -> Iterator[PhotoRegions]:
    """Results in the items' order; while one window is computed, the next is decoded."""
    size = BATCHES_PER_WINDOW * settings.batch_size
    windows = [range(start, min(start + size, len(items))) for start in range(0, len(items), size)]

    def sized(position: int) -> SizedPhoto:
        photo = decode_photo(items.encoded(position), _name(items, position))
        return sized_photo(network, photo, settings)

    with ThreadPoolExecutor(max(1, num_workers), "decode") as pool:

        def decode(window: range) -> list[Future[SizedPhoto]]:
            return [pool.submit(sized, position) for position in window]

        waiting = decode(windows[0]) if windows else []
        for number, window in enumerate(windows):
            ready = [future.result() for future in waiting]
            waiting = decode(windows[number + 1]) if number + 1 < len(windows) else []
            extra = None if boxes is None else [boxes[i] for i in window]
            yield from extract_sized(network, ready, settings, extra)


def _name(items: ItemTable, position: int) -> str:
    return f"{items.artifact.folder}: item {items.rows['id'].iloc[position]}"


def _details(network: ProposalNetwork, rpn: Artifact) -> dict[str, object]:
    return {
        "feature_dim": network.feature_dim,
        "rpn": rpn.digest,
        "backbone": network_settings(rpn).backbone,
        "short_side_px": network.short_side_px,
        "long_side_px": network.long_side_px,
        CHOSEN_BOXES: rpn.manifest.details.get(CHOSEN_BOXES, {}),
    }


def _metrics(num_regions: np.ndarray) -> dict[str, float]:
    """Counts of regions, without the whole photo."""
    return {
        "num_items": float(len(num_regions)),
        "regions_per_item": float(num_regions.mean()),
        "items_without_proposals": float((num_regions == 0).sum()),
    }
