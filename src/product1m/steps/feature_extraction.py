"""Region features of every photo of an artifact: train, gallery, queries or scenes (paper)."""

import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from product1m.artifacts.folder import Artifact, open_artifact, write_artifact
from product1m.config import FeatureExtractionConfig
from product1m.data.boxes import BOXES
from product1m.data.geometry import Boxes
from product1m.data.items import ITEMS, ItemTable
from product1m.data.photos import decode_photo
from product1m.data.regions import (
    INSTANCE_FEATURES,
    INSTANCES,
    RegionWriter,
    write_instances,
)
from product1m.detection.extraction import Extracted, SizedPhoto, extract_sized, sized_photo
from product1m.detection.proposals import ProposalNetwork, load_rpn, rpn_config
from product1m.detection.scene_batches import boxes_by_scene
from product1m.errors import DatasetError
from product1m.telemetry.progress import track
from product1m.telemetry.tracking import step_run

BATCHES_A_WINDOW = 8
"""Photos are sorted by size within so many batches; a window is what memory holds (ours)."""


def run(
    images: Path,
    rpn: Path,
    features: Path,
    config: FeatureExtractionConfig,
    storage_root: str = "",
) -> dict[str, float]:
    """Extract the regions of `images`, an artifact of ingestion or background synthesis.

    Raises DatasetError with the item's id for a photo that cannot be decoded.
    """
    photos, checkpoint = _open_photos(images), open_artifact(rpn, "rpn_training")
    items, network = ItemTable(photos), load_rpn(checkpoint)
    if not len(items):
        raise DatasetError(f"{images}: holds no items, so there is nothing to extract")
    instances = _read_instances(photos)
    inputs = {"images": photos, "rpn": checkpoint}
    part = photos.manifest.part
    boxes = None if instances is None else boxes_by_scene(instances, len(items))
    with write_artifact(
        features, "feature_extraction", config, inputs, part, storage_root
    ) as writer:
        shutil.copyfile(photos.file(ITEMS), writer.folder / ITEMS)
        counts, instance_features = [], []
        extracted = _extract(network, items, config, boxes)
        with RegionWriter(writer.folder, config.shard_mib, writer.store) as regions_writer:
            for regions, at_instances in track(extracted, f"regions of {part}", len(items)):
                regions_writer.add(regions)
                counts.append(len(regions) - 1)
                instance_features.append(at_instances.astype(np.float16))
        if instances is not None:
            write_instances(writer.folder, instances, np.concatenate(instance_features))
            writer.store(writer.folder / INSTANCE_FEATURES)
        writer.details.update(_details(network, checkpoint))
        writer.metrics.update(_metrics(np.array(counts)))
    with step_run("feature_extraction", config, part) as tracking:
        tracking.log_metrics(writer.metrics)
    return writer.metrics


def _open_photos(images: Path) -> Artifact:
    is_scenes = (images / INSTANCES).is_file()
    return open_artifact(images, "background_synthesis" if is_scenes else "ingestion")


def _read_instances(photos: Artifact) -> pd.DataFrame | None:
    """A scene set's pasted products, or the boxes known of queries, by photo; else None."""
    if INSTANCES in photos.manifest.files:
        frame: pd.DataFrame = pq.read_table(photos.file(INSTANCES)).to_pandas()
    elif BOXES in photos.manifest.files:
        frame = pq.read_table(photos.file(BOXES)).to_pandas().rename(columns={"item": "scene"})
    else:
        return None
    return frame.sort_values("scene", kind="stable", ignore_index=True)


def _extract(
    network: ProposalNetwork,
    items: ItemTable,
    config: FeatureExtractionConfig,
    boxes: Sequence[Boxes] | None,
) -> Iterator[Extracted]:
    """Results in the items' order; the next window is decoded while one is computed."""
    size = BATCHES_A_WINDOW * config.batch_size
    windows = [range(start, min(start + size, len(items))) for start in range(0, len(items), size)]

    def sized(position: int) -> SizedPhoto:
        photo = decode_photo(items.encoded(position), _name(items, position))
        return sized_photo(network, photo, config)

    with ThreadPoolExecutor(max(1, config.num_workers), "decode") as pool:

        def decode(window: range) -> list[Future[SizedPhoto]]:
            return [pool.submit(sized, position) for position in window]

        waiting = decode(windows[0]) if windows else []
        for number, window in enumerate(windows):
            ready = [future.result() for future in waiting]
            waiting = decode(windows[number + 1]) if number + 1 < len(windows) else []
            wanted = None if boxes is None else [boxes[i] for i in window]
            yield from extract_sized(network, ready, config, wanted)


def _name(items: ItemTable, position: int) -> str:
    return f"{items.artifact.folder}: item {items.rows['id'].iloc[position]}"


def _details(network: ProposalNetwork, checkpoint: Artifact) -> dict[str, object]:
    trained = rpn_config(checkpoint)
    return {
        "feature_dim": network.feature_dim,
        "rpn": checkpoint.digest,
        "backbone": trained.backbone,
        "short_side_px": network.short_side_px,
        "long_side_px": network.long_side_px,
    }


def _metrics(num_regions: np.ndarray) -> dict[str, float]:
    """Counts of proposals kept; the whole photo is not one."""
    return {
        "num_items": float(len(num_regions)),
        "regions_per_item": float(num_regions.mean()),
        "items_without_proposals": float((num_regions == 0).sum()),
    }
