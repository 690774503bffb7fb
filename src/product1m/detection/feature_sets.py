"""The regions of all photos of an artifact, written as a feature set."""

import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from jaxtyping import Float16, Int

from product1m.artifacts.folder import Artifact, ArtifactWriter
from product1m.data.boxes import BOXES
from product1m.data.geometry import CHOSEN_BOXES, Boxes
from product1m.data.items import ITEMS, ItemTable
from product1m.data.photos import decode_photo
from product1m.data.printed_lines import LineWriter, PrintedLines
from product1m.data.regions import (
    INSTANCE_FEATURES,
    INSTANCES,
    Regions,
    RegionWriter,
    write_instances,
)
from product1m.detection.extraction import (
    PhotoRegions,
    RegionSettings,
    SizedPhoto,
    extract_sized,
    sized_photo,
)
from product1m.detection.ocr import reader_details
from product1m.detection.ocr_cache import CachedReader
from product1m.detection.proposals import ProposalNetwork, load_rpn, network_settings
from product1m.detection.scene_batches import boxes_by_scene
from product1m.errors import DatasetError
from product1m.telemetry.progress import track

BATCHES_PER_WINDOW = 8
"""Batches within which photos are sorted by size; memory holds two such windows (ours)."""


def write_features(
    images: Artifact,
    rpn: Artifact,
    writer: ArtifactWriter,
    settings: RegionSettings,
    *,
    num_workers: int,
    shard_mib: int,
    reader: CachedReader | None = None,
) -> None:
    """Extract the regions of all photos of `images` into the artifact that `writer` writes.

    Args:
        images: an artifact of ingestion or of background synthesis.
        rpn: an artifact of RPN training.
        writer: of an artifact of the step `feature_extraction`.
        settings: which regions, and how they are pooled.
        num_workers: threads that decode photos; the result does not depend on it.
        shard_mib: largest size of a shard.
        reader: reads what is printed in the photos, if that is wanted.

    Raises DatasetError if there are no photos, or, with the item's id, if one is damaged.
    """
    items, network = ItemTable(images), load_rpn(rpn)
    if not len(items):
        raise DatasetError(f"{images.folder}: there are no items to extract features from")
    instances = _read_instances(images)
    boxes = None if instances is None else boxes_by_scene(instances, len(items))
    shutil.copyfile(images.file(ITEMS), writer.folder / ITEMS)
    extracted = _extract(network, items, settings, boxes, num_workers)
    if reader is not None:
        extracted = _with_lines(extracted, items, reader, writer)
    extracted = track(extracted, f"regions of {images.manifest.part}", len(items))
    counts, instance_features = _write_regions(extracted, writer, shard_mib)
    if instances is not None:
        write_instances(writer.folder, instances, instance_features)
        writer.store(writer.folder / INSTANCE_FEATURES)
    writer.details.update(_details(network, rpn))
    writer.metrics.update(_metrics(counts))


def _with_lines(
    extracted: Iterable[PhotoRegions],
    items: ItemTable,
    reader: CachedReader,
    writer: ArtifactWriter,
) -> Iterator[PhotoRegions]:
    """Also write the lines of every photo; several photos are read at once."""
    digests = items.rows["sha256"].to_numpy()

    def read(position: int, regions: Regions) -> PrintedLines:
        return reader.read(str(digests[position]), lambda: items.photo(position), regions)

    waiting: deque[tuple[PhotoRegions, Future[PrintedLines]]] = deque()
    with LineWriter(writer.folder) as lines, ThreadPoolExecutor(reader.num_workers, "ocr") as pool:
        for position, photo in enumerate(extracted):
            waiting.append((photo, pool.submit(read, position, photo[0])))
            if len(waiting) > 2 * reader.num_workers:
                done, reading = waiting.popleft()
                lines.add(reading.result())
                yield done
        for done, reading in waiting:
            lines.add(reading.result())
            yield done
    writer.details["ocr"] = reader_details(reader.reader.settings)
    writer.metrics.update(reader.metrics())


def _write_regions(
    extracted: Iterable[PhotoRegions], writer: ArtifactWriter, shard_mib: int
) -> tuple[Int[np.ndarray, " N"], Float16[np.ndarray, "I F"]]:
    """Write the regions; returns their number without whole photos, and the extra vectors."""
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
    """Results in the items' order; the next window is decoded while one is computed."""
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
